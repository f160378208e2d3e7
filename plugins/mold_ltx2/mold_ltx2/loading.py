"""Load the pipeline of a catalog entry."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mold_core.families import EmptyComponent, load_resident, memory_plan, planned_components
from mold_core.weights import compile_modules, configured, empty_modules, read_weights
from mold_ltx2.component_sizes import model_components
from mold_ltx2.components import COMPONENTS, Components
from mold_ltx2.decoding import Autoencoders
from mold_ltx2.dtypes import dtype_of
from mold_ltx2.gemma import gemma_config, gemma_network, scale_embeddings
from mold_ltx2.pipeline import Ltx2Pipeline
from mold_ltx2.prompts import GemmaTokenizer, PromptEncoder
from mold_ltx2.upsampling import Upsamplers

if TYPE_CHECKING:
    from mold_core import LoadContext, LocalFiles, MemoryPlan, ModelSpec

__all__ = ["compile_transformer", "load_pipeline"]

_TEXT_TOKENS = 1024

# Quality of the videos that LTX-2 was trained on, in x264's scale. Videos of better images hardly move.
_IMAGE_CRF = 33


def load_pipeline(spec: ModelSpec, files: LocalFiles, context: LoadContext) -> Ltx2Pipeline:
    """Return the model of a catalog entry, held in memory as the plan of `context` says; without a plan, all of it.

    The file `transformer` holds every network but the text encoder; a network that it lacks comes from the file of its
    component (``vae``, ``audio_vae``, ``vocoder``, ``connectors``). The tensors of the transformer tell LTX-2 from
    LTX-2.3.

    Options: tables of these names, and ``text_encoder``, with sizes other than the published ones; ``distilled``: the
    model needs no guidance; ``sigmas``: the noise levels that it was trained for; ``text_tokens``: the length that
    prompts are padded to; ``image_crf``: the quality of the videos of its training; ``dtype``: what it computes in.
    Raises CheckpointError naming the file.
    """
    options = spec.options
    plan = memory_plan(context, lambda: model_components(spec, files, context))
    networks = _Networks(spec, files, context, plan)
    components = planned_components(plan, context, networks.component)
    device = plan.component("transformer").device
    autoencoders = Autoencoders(
        components,
        **{name: networks.outline(name) for name in ("vae", "audio_vae", "vocoder")},
        statistics={name: networks.statistics(name) for name in ("vae", "audio_vae")},
        device=device,
        image_crf=int(options.get("image_crf", _IMAGE_CRF)),
    )
    tokenizer = GemmaTokenizer(files.one("tokenizer"), int(options.get("text_tokens", _TEXT_TOKENS)))
    load_resident(components, context.report)
    return Ltx2Pipeline(
        components,
        transformer=networks.outline("transformer", num_layers=0),
        autoencoders=autoencoders,
        prompts=PromptEncoder(components, tokenizer),
        upsamplers=Upsamplers(networks.files.upsamplers, components, autoencoders),
        version=networks.files.version,
        distilled=bool(options.get("distilled")),
        sigmas=options.get("sigmas"),
        device=device,
        dtype=dtype_of("transformer", spec, device, context.capabilities.get(device)),
        distilled_lora=files.one("distilled_lora") if "distilled_lora" in files.by_component else None,
    )


class _Networks:
    """Describes the networks of a model from their files."""

    def __init__(self, spec: ModelSpec, files: LocalFiles, context: LoadContext, plan: MemoryPlan) -> None:
        self.files = Components(files, spec.options, context.loaders)
        self._spec = spec
        self._context = context
        self._plan = plan

    def outline(self, name: str, **sizes: Any) -> Any:
        """Return a network without weights, which has the sizes of the file, or those in `sizes`."""
        return _empty(self._class(name), {**self.files.config(name), **sizes})

    def statistics(self, name: str) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of an autoencoder's latents, in fp32."""
        tensors = self.files.tensors(name)
        return tensors["latents_mean"].float(), tensors["latents_std"].float()

    def component(self, name: str) -> EmptyComponent:
        """Return a network of the sizes that a component's file has, and how it is loaded."""
        device = self._plan.component(name).device
        network, tensors, path = self._empty_network(name)
        return EmptyComponent(
            network=network,
            tensors=tensors,
            path=path,
            dtype=dtype_of(name, self._spec, device, self._context.capabilities.get(device)),
            dequantize=self._context.expand_weights == "always",
            dequantize_if_spare=name == "transformer",
            stream_units=lambda: _stream_units(name, network),
            prepare=scale_embeddings if name == "text_encoder" else None,
            compile_blocks=partial(compile_transformer, network, cache_dir=self._context.cache_dir)
            if name == "transformer"
            else None,
        )

    def _empty_network(self, name: str) -> tuple[Any, Mapping[str, Any], Path]:
        """Return the network of a component without weights, its tensors, and the file that has them."""
        if name == "text_encoder":
            tensors = self.files.text_tensors()
            sizes = {"vocab_size": tensors["embed_tokens.weight"].shape[0], **self._spec.options.get(name, {})}
            return gemma_network(gemma_config(**sizes)), tensors, self.files.text_paths()[0]
        if name in COMPONENTS:
            network = _with_resampler(_empty(self._class(name), self.files.config(name)))
            tensors = self.files.tensors(name)
            return _with_statistics(network, tensors), tensors, self.files.path(name)
        file = self.files.upsamplers[name]  # type: ignore[index]
        network = _empty(_networks()["upsampler"], file.recognised.config)
        return network, read_weights(file.path, self._context.loaders), file.path

    def _class(self, name: str) -> Any:
        extended = name == "vocoder" and any(key.startswith("bwe_generator.") for key in self.files.headers(name))
        return _networks()["extended_vocoder" if extended else name]


def compile_transformer(transformer: Any, *, cache_dir: Path | None = None, backend: str | Any = "inductor") -> None:
    """Compile the blocks of a transformer on their first use."""
    transformer.compilation = compile_modules(transformer.transformer_blocks, backend=backend, cache_dir=cache_dir)
    transformer.forward = configured(transformer.forward)


def _stream_units(name: str, network: Any) -> list[nn.Module]:
    return list(network.layers if name == "text_encoder" else network.transformer_blocks)


def _empty(network: Any, config: Mapping[str, Any]) -> Any:
    """Return a network without weights, on the meta device."""
    with empty_modules():
        return network(**config)


def _with_resampler(network: Any) -> Any:
    """Return a network with what it computes from its sizes and no file holds: the filter of LTX-2.3's vocoder."""
    if hasattr(network, "resampler"):
        ratio = network.config.output_sampling_rate // network.config.input_sampling_rate
        network.resampler = type(network.resampler)(ratio=ratio, window_type="hann", persistent=False)
    return network


def _with_statistics(network: Any, tensors: Mapping[str, Any]) -> Any:
    """Return an autoencoder with buffers of the right shape for the statistics of its latents.

    diffusers gives them as many audio features as the network is wide, which is right only for LTX-2 itself.
    """
    for name in ("latents_mean", "latents_std"):
        if name in tensors and hasattr(network, name):
            network.register_buffer(name, torch.empty(tensors[name].shape, device="meta"))
    return network


def _networks() -> dict[str, Any]:
    from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video, LTX2VideoTransformer3DModel
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
    from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder, LTX2VocoderWithBWE

    return {
        "transformer": LTX2VideoTransformer3DModel,
        "connectors": LTX2TextConnectors,
        "vae": AutoencoderKLLTX2Video,
        "audio_vae": AutoencoderKLLTX2Audio,
        "vocoder": LTX2Vocoder,
        "extended_vocoder": LTX2VocoderWithBWE,
        "upsampler": LTX2LatentUpsamplerModel,
    }
