"""From the files of a catalog entry to a pipeline that runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mold_core import Info, MemoryPlan
from mold_core.weights import BlockStream, LoadedComponents, LoadProgress, empty_modules, load_weights, read_weights
from mold_core.weights.compiled_blocks import compile_modules, configured, worth_compiling
from mold_ltx2.component_sizes import model_components
from mold_ltx2.components import COMPONENTS, Components
from mold_ltx2.decoding import Autoencoders
from mold_ltx2.dtypes import dtype_of
from mold_ltx2.gemma import gemma_config, gemma_network, scale_embeddings
from mold_ltx2.pipeline import Ltx2Pipeline
from mold_ltx2.prompts import GemmaTokenizer, PromptEncoder
from mold_ltx2.upsampling import Upsamplers

if TYPE_CHECKING:
    from mold_core import LoadContext, LocalFiles, ModelSpec, ProgressEvent
    from mold_core.weights import ComponentLoader

__all__ = ["compile_transformer", "load_pipeline"]

_TEXT_TOKENS = 1024

# Quality of the videos that LTX-2 was trained on, as x264 counts it; images that are too good hardly move.
_IMAGE_CRF = 33


def load_pipeline(spec: ModelSpec, files: LocalFiles, context: LoadContext) -> Ltx2Pipeline:
    """Return the model of a catalog entry, held in memory as the plan of `context` says; without one, all of it.

    The file `transformer` holds every network but the text encoder; a network that it lacks comes from a file of its
    own component (``vae``, ``audio_vae``, ``vocoder``, ``connectors``). Whether it is LTX-2 or LTX-2.3 is told by the
    transformer's tensors. The tables of those names in the options, and ``text_encoder``, say sizes that are not the
    published ones. ``distilled`` says that the model needs no guidance, ``sigmas`` the noise levels it was trained for
    where those are its own, ``text_tokens`` the length that prompts are filled up to, ``image_crf`` the quality of
    the videos it was trained on, ``dtype`` what is computed in. Raises CheckpointError naming the file.
    """
    options = spec.options
    plan = context.plan or MemoryPlan(strategy="eager", parts=model_components(spec, files, context), room={})
    loader = _Loader(spec, files, context, plan)
    parts = LoadedComponents(plan, {part.name: loader.part(part.name) for part in plan.parts})
    device = plan.part("transformer").device
    autoencoders = Autoencoders(
        parts,
        **{name: loader.outline(name) for name in ("vae", "audio_vae", "vocoder")},
        statistics={name: loader.statistics(name) for name in ("vae", "audio_vae")},
        device=device,
        image_crf=int(options.get("image_crf", _IMAGE_CRF)),
    )
    tokenizer = GemmaTokenizer(files.one("tokenizer"), int(options.get("text_tokens", _TEXT_TOKENS)))
    if plan.strategy == "eager":
        parts.load_all(context.report)
    return Ltx2Pipeline(
        parts=parts,
        transformer=loader.outline("transformer", num_layers=0),
        autoencoders=autoencoders,
        prompts=PromptEncoder(parts, tokenizer),
        upsamplers=Upsamplers(loader.components.upsamplers, parts, autoencoders),
        version=loader.components.version,
        distilled=bool(options.get("distilled")),
        sigmas=options.get("sigmas"),
        device=device,
        dtype=dtype_of("transformer", spec, device, context.capabilities.get(device)),
        distilled_lora=files.one("distilled_lora") if "distilled_lora" in files.by_component else None,
    )


class _Loader:
    """Builds networks and fills them from their files, one after the other, whenever they are wanted."""

    def __init__(self, spec: ModelSpec, files: LocalFiles, context: LoadContext, plan: MemoryPlan) -> None:
        self.components = Components(files, spec.options, context.loaders)
        self._spec = spec
        self._context = context
        self._plan = plan
        self._loaded_bytes = 0
        self._total_bytes = sum(part.size_bytes for part in plan.parts)

    def part(self, name: str) -> ComponentLoader:
        """Return what loads a part."""
        return lambda report: self.load(name, report)

    def outline(self, name: str, **sizes: Any) -> Any:
        """Return a network that has no weights but tells its sizes, of which `sizes` are other than the file's."""
        return _empty(self._class(name), {**self.components.config(name), **sizes})

    def statistics(self, name: str) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of an autoencoder's latents, in fp32."""
        tensors = self.components.tensors(name)
        return tensors["latents_mean"].float(), tensors["latents_std"].float()

    def load(self, name: str, report: Callable[[ProgressEvent], object]) -> tuple[nn.Module, BlockStream | None]:
        """Return a part with its weights, in the dtype and on the device to run on, and what streams its blocks.

        Where the plan streams it, its blocks stay in the mapped file.
        """
        device, streamed = self._plan.part(name).device, self._plan.streams(name)
        dtype = dtype_of(name, self._spec, device, self._context.capabilities.get(device))
        network, tensors, path = self._found(name)
        context, progress = self._context, self._progress(name, report)
        load_weights(
            network,
            tensors,
            path,
            dtype=dtype,
            device="cpu" if streamed else device,
            as_stored=streamed,
            expand=context.expand_weights == "always",
            dequantize_within_bytes=None if streamed else self._dense_within(name, device),
            compile=context.compile,
            cache_dir=context.cache_dir,
            progress=progress,
        )
        network.eval().requires_grad_(False)
        if name == "text_encoder":
            scale_embeddings(network)
        stream = None
        if streamed:
            stream = BlockStream(network, _units(name, network), device=device, dtype=dtype, pin=True)
        else:
            network.to(device)
        if name == "transformer":
            self._speed_up(network, device, report)
        progress.finish()
        return network, stream

    def _dense_within(self, name: str, device: str) -> int | None:
        """Return what a part's weights may take when they are dequantized once; None where they stay quantised.

        Half of what is left is for other models.
        """
        if self._context.expand_weights != "auto" or name != "transformer":
            return None
        return self._plan.held_bytes(name) + self._plan.spare_bytes(device) // 2

    def _speed_up(self, transformer: Any, device: str, report: Callable[[ProgressEvent], object]) -> None:
        if worth_compiling(self._context.compile, device, self._plan.part("transformer").size_bytes):
            report(Info(message="the first step compiles the transformer, and takes longer than those after it"))
            compile_transformer(transformer, cache_dir=self._context.cache_dir)

    def _found(self, name: str) -> tuple[Any, Mapping[str, Any], Path]:
        """Return the network of a part without weights, its tensors, and the file these are from."""
        if name == "text_encoder":
            tensors = self.components.text_tensors()
            sizes = {"vocab_size": tensors["embed_tokens.weight"].shape[0], **self._spec.options.get(name, {})}
            return gemma_network(gemma_config(**sizes)), tensors, self.components.text_paths()[0]
        if name in COMPONENTS:
            network = _empty(self._class(name), self.components.config(name))
            tensors = self.components.tensors(name)
            return _fitted(_computed(network), tensors), tensors, self.components.path(name)
        file = self.components.upsamplers[name]  # type: ignore[index]
        network = _empty(_networks()["upsampler"], file.recognised.config)
        return network, read_weights(file.path, self._context.loaders), file.path

    def _class(self, name: str) -> Any:
        extended = name == "vocoder" and any(key.startswith("bwe_generator.") for key in self.components.headers(name))
        return _networks()["extended_vocoder" if extended else name]

    def _progress(self, name: str, report: Callable[[ProgressEvent], object]) -> LoadProgress:
        size_bytes = self._plan.part(name).size_bytes
        if self._plan.strategy != "eager":
            return LoadProgress(report, name, size_bytes, size_bytes)
        before = min(self._loaded_bytes, self._total_bytes)
        self._loaded_bytes += size_bytes
        return LoadProgress(report, name, size_bytes, self._total_bytes, before)


def compile_transformer(transformer: Any, *, cache_dir: Path | None = None, backend: str | Any = "inductor") -> None:
    """Let the blocks of a transformer run as compiled code from their first use on."""
    transformer.compilation = compile_modules(transformer.transformer_blocks, backend=backend, cache_dir=cache_dir)
    transformer.forward = configured(transformer.forward)


def _units(name: str, network: Any) -> list[nn.Module]:
    return list(network.layers if name == "text_encoder" else network.transformer_blocks)


def _empty(network: Any, config: Mapping[str, Any]) -> Any:
    """Return a network without weights, on the meta device."""
    with empty_modules():
        return network(**config)


def _computed(network: Any) -> Any:
    """Give a network what it computes from its sizes and no file holds: the filter of LTX-2.3's vocoder."""
    if hasattr(network, "resampler"):
        ratio = network.config.output_sampling_rate // network.config.input_sampling_rate
        network.resampler = type(network.resampler)(ratio=ratio, window_type="hann", persistent=False)
    return network


def _fitted(network: Any, tensors: Mapping[str, Any]) -> Any:
    """Give an autoencoder room for the statistics of its latents.

    diffusers makes room for as many audio features as the network is wide, which are as many only in LTX-2 itself.
    """
    for name in ("latents_mean", "latents_std"):
        if name in tensors and hasattr(network, name):
            network.register_buffer(name, torch.empty(tensors[name].shape, device="meta"))
    return network


def _networks() -> dict[str, Any]:
    from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video, LTX2VideoTransformer3DModel
    from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel, LTX2TextConnectors, LTX2Vocoder
    from diffusers.pipelines.ltx2.vocoder import LTX2VocoderWithBWE

    return {
        "transformer": LTX2VideoTransformer3DModel,
        "connectors": LTX2TextConnectors,
        "vae": AutoencoderKLLTX2Video,
        "audio_vae": AutoencoderKLLTX2Audio,
        "vocoder": LTX2Vocoder,
        "extended_vocoder": LTX2VocoderWithBWE,
        "upsampler": LTX2LatentUpsamplerModel,
    }
