"""From the files of a catalog entry to a pipeline that runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mold_core import CheckpointError, WeightLoad
from mold_core.weights import fill, read_weights
from mold_ltx2.checkpoints import official_names
from mold_ltx2.configs import OFFICIAL, version_of
from mold_ltx2.decoding import Autoencoders
from mold_ltx2.gemma import gemma_config, gemma_names, gemma_network
from mold_ltx2.pipeline import Ltx2Pipeline
from mold_ltx2.prompts import GemmaTokenizer, PromptEncoder
from mold_ltx2.upsampling import UpsamplerKind, Upsamplers, recognise_upsampler

if TYPE_CHECKING:
    from mold_core import LoadContext, LocalFiles, ModelSpec

__all__ = ["load_pipeline"]

_TEXT_TOKENS = 1024

# Quality of the videos that LTX-2 was trained on, as x264 counts it; pictures that are too good hardly move.
_PICTURE_CRF = 33

# Components with files of upsamplers; what a file does is told by its tensors.
_UPSAMPLERS = ("spatial_upscaler", "temporal_upscaler")


def load_pipeline(spec: ModelSpec, files: LocalFiles, context: LoadContext) -> Ltx2Pipeline:
    """Return the model of a catalog entry, loaded onto the device of `context`.

    The file `transformer` holds every network but the text encoder; a network that it lacks comes from a file of its
    own component (``vae``, ``audio_vae``, ``vocoder``, ``connectors``). The tables of those names in the options, and
    ``text_encoder``, say sizes that are not LTX-2 19B's. ``distilled`` says that the model needs no
    guidance, ``sigmas`` the noise levels it was trained for where those are its own, ``text_tokens`` the length that
    prompts are filled up to, ``picture_crf`` the quality of the videos it was trained on, ``version`` (2.0, 2.3)
    what else differs. Raises CheckpointError naming the file.
    """
    options = spec.options
    loader = _Loader(files, options, context)
    autoencoders = Autoencoders(
        loader.network("vae"),
        loader.network("audio_vae"),
        loader.network("vocoder"),
        context.device,
        picture_crf=int(options.get("picture_crf", _PICTURE_CRF)),
    )
    prompts = PromptEncoder(
        loader.gemma(),
        GemmaTokenizer(files.one("tokenizer"), int(options.get("text_tokens", _TEXT_TOKENS))),
        loader.network("connectors"),
        context.device,
    )
    return Ltx2Pipeline(
        transformer=loader.network("transformer"),
        autoencoders=autoencoders,
        prompts=prompts,
        upsamplers=Upsamplers(loader.upsamplers(), autoencoders),
        version=version_of(options),
        distilled=bool(options.get("distilled")),
        sigmas=options.get("sigmas"),
        device=context.device,
    )


class _Loader:
    """Builds networks and fills them from their files, one after the other."""

    def __init__(self, files: LocalFiles, options: Mapping[str, Any], context: LoadContext) -> None:
        self._files = files
        self._options = options
        self._context = context
        self._dtype = getattr(torch, options["dtype"]) if "dtype" in options else _fast_dtype(context.device)
        self._whole = read_weights(files.one("transformer"), context.loaders)
        self._loaded_bytes = 0
        self._total_bytes = files.size_bytes()

    def network(self, component: str) -> Any:
        """Return one of diffusers' networks with its weights."""
        path = self._files.one("transformer")
        tensors: Mapping[str, Any] = self._whole
        if component != "transformer" and component in self._files.by_component:
            path = self._files.one(component)
            tensors = read_weights(path, self._context.loaders)
        try:
            named = official_names(component, tensors)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error.message}", hint=error.hint) from None
        config = {**OFFICIAL[component], **self._options.get(component, {})}
        return self._filled(_empty(component, config), named, path, component)

    def gemma(self) -> nn.Module:
        """Return the text encoder."""
        paths = self._files.by_component["text_encoder"]
        tensors: dict[str, Any] = {}
        for path in paths:
            tensors.update(gemma_names(read_weights(path, self._context.loaders)))
        network = gemma_network(gemma_config(**self._options.get("text_encoder", {})))
        return self._filled(network, tensors, paths[0], "text_encoder")

    def upsamplers(self) -> dict[UpsamplerKind, Any]:
        """Return the networks that make latents larger, by what they do."""
        networks: dict[UpsamplerKind, Any] = {}
        for component in _UPSAMPLERS:
            for path in self._files.by_component.get(component, ()):
                tensors = read_weights(path, self._context.loaders)
                try:
                    found = recognise_upsampler(tensors)
                except CheckpointError as error:
                    raise CheckpointError(f"{path}: {error.message}", hint=error.hint) from None
                networks[found.kind] = self._filled(_empty("upsampler", found.config), tensors, path, component)
        return networks

    def _filled(self, network: nn.Module, tensors: Mapping[str, Any], path: Path, component: str) -> nn.Module:
        context = self._context
        fill(
            network,
            tensors,
            path,
            dtype=self._dtype,
            device=context.device,
            compile=context.compile,
            cache_dir=context.cache_dir,
        )
        self._loaded_bytes = min(self._loaded_bytes + _size_bytes(network), self._total_bytes)
        context.report(WeightLoad(bytes_loaded=self._loaded_bytes, bytes_total=self._total_bytes, component=component))
        return network.to(context.device).eval().requires_grad_(False)


def _empty(component: str, config: Mapping[str, Any]) -> nn.Module:
    """Return a network without weights, on the meta device."""
    from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video, LTX2VideoTransformer3DModel
    from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel, LTX2TextConnectors, LTX2Vocoder

    networks: dict[str, Any] = {
        "transformer": LTX2VideoTransformer3DModel,
        "connectors": LTX2TextConnectors,
        "vae": AutoencoderKLLTX2Video,
        "audio_vae": AutoencoderKLLTX2Audio,
        "vocoder": LTX2Vocoder,
        "upsampler": LTX2LatentUpsamplerModel,
    }
    with torch.device("meta"):
        network: nn.Module = networks[component](**config)
    return network


def _size_bytes(network: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())


def _fast_dtype(device: str) -> torch.dtype:
    """Return the dtype to compute in: bf16 where the hardware multiplies it, fp32 elsewhere."""
    if device != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32
