"""Estimate the memory of a FLUX.1 model's components from the headers of its files. Imports torch only for a dtype."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mold_core import ModelComponent, ModelNotFoundError
from mold_core.weights import ComponentSizes, measure, open_weights

if TYPE_CHECKING:
    import torch

    from mold_core import LoadContext, LocalFiles, ModelSpec

__all__ = [
    "COMPONENTS",
    "DECODED_PX",
    "VAE_TILES_PX",
    "device_of",
    "dtype_of",
    "expands",
    "model_components",
    "vae_tile_px",
    "vae_working_bytes",
]

# Components with weights, in the order of their use, → the names under which their device can be requested.
COMPONENTS = {
    "t5_encoder": ("t5", "text_encoders"),
    "clip_encoder": ("clip_l", "text_encoders"),
    "transformer": ("transformer",),
    "vae": ("vae",),
}

# Tensors of a streamed unit: the modulations of a block, used once per image, and the rest of it, in either layout.
_TRANSFORMER_UNIT = re.compile(
    r"((?:double|single|transformer|single_transformer)_blocks\.\d+)\."
    r"((?:img_mod|txt_mod|modulation|norm1\.linear|norm1_context\.linear|norm\.linear)\.)?"
)
_T5_UNIT = re.compile(r"(?:block|blk)\.(\d+)\.")

# Sizes of FLUX.1, for files that are not downloaded: shares of the weights that are not streamed, and of the largest
# unit.
_STAYING_SHARE, _LARGEST_SHARE = 0.006, 0.019
_T5_STAYING_SHARE, _T5_LARGEST_SHARE = 0.028, 0.0405

# Numbers per token and channel in memory at the same time: queries and keys in float32, both halves of a block's MLP.
_TOKEN_WIDTHS = 40
# Channels, in multiples of those of the last level, that the autoencoder keeps in memory per pixel: 6 in live
# tensors, the rest for cuDNN's workspace and for the reordered copies of group norms on CUDA.
_PIXEL_WIDTHS = 12


# Pixels to decode in one batch: eight images of 128x128 take 20 % less time than one by one.
DECODED_PX = 131_072

# Sides of the tiles in which an image is decoded; the largest that fits into memory is used.
VAE_TILES_PX = (1024, 768, 512, 384, 256)


def model_components(spec: ModelSpec, files: LocalFiles, context: LoadContext) -> tuple[ModelComponent, ...]:
    """Return the components of a model in the order of their use.

    Downloaded files are measured by their headers, others by the catalog. Raises CheckpointError for a header that
    cannot be read.
    """
    components = {name: _component(name, files.one(name), spec, context) for name in COMPONENTS if name != "t5_encoder"}
    components["t5_encoder"] = _t5_component(spec, files, context, tuple(components.values()))
    return tuple(components[name] for name in COMPONENTS)


def expands(spec: ModelSpec, context: LoadContext) -> bool:
    """Return whether quantised weights are always dequantized, regardless of memory."""
    return bool(spec.options.get("expand")) or context.expand_weights == "always"


def dtype_of(component: str, context: LoadContext) -> torch.dtype:
    """Return the dtype that a component computes in. Only the transformer, which clamps its residuals, uses fp16."""
    from mold_core.weights import fast_dtype, wide_dtype

    device = device_of(component, context)
    choose = fast_dtype if component == "transformer" else wide_dtype
    return choose(device, context.capabilities.get(device))


def device_of(component: str, context: LoadContext) -> str:
    """Return the device of a component: the requested device, else that of the context."""
    return context.memory_policy.device_of(*COMPONENTS[component], default=context.device)


def _t5_component(
    spec: ModelSpec, files: LocalFiles, context: LoadContext, others: tuple[ModelComponent, ...]
) -> ModelComponent:
    """Return the T5 encoder of the best file that fits into memory, with the other components if all stay loaded."""
    paths = files.choices.get("t5_encoder") or (files.one("t5_encoder"),)
    requested = context.memory_policy.variants.get("t5")
    if requested is not None:
        paths = tuple(path for path in paths if _variant(path) == requested)
        if not paths:
            raise ModelNotFoundError(
                f"the T5 text encoder {requested!r} is not downloaded",
                field="t5_variant",
                value=requested,
                hint=f"mold pull t5:{requested} fetches it",
            )
    components = [_component("t5_encoder", path, spec, context) for path in paths]
    device = components[0].device
    taken = sum(one.size_bytes for one in others if one.device == device)
    available = context.available_bytes.get(device, sys.maxsize) - (
        taken if context.memory_policy.strategy == "eager" else 0
    )
    fitting = [one for one in components if one.size_bytes + one.working_bytes <= available]
    return fitting[0] if fitting else min(components, key=lambda one: one.size_bytes)


def _variant(path: Path) -> str:
    """Return the tag of a T5 file from its name: q8 for …-Q8_0.gguf, fp16 for other names."""
    found = re.search(r"-q(\d)_", path.name.lower())
    return f"q{found[1]}" if found else "fp16"


def _component(component: str, path: Path, spec: ModelSpec, context: LoadContext) -> ModelComponent:
    device = device_of(component, context)
    number_bytes = dtype_of(component, context).itemsize
    sizes, width = (
        _measured(component, path, number_bytes, expands(spec, context), context)
        if os.path.exists(path)
        else _from_catalog(component, spec, number_bytes)
    )
    return ModelComponent(
        name=component,
        size_bytes=sizes.total_bytes,
        device=device,
        streamed_bytes=sizes.streamed_bytes(device),
        working_bytes=_working_bytes(component, spec, width, edits=_edits(spec, path)) * number_bytes
        if component != "vae"
        else vae_working_bytes(
            _pixels(spec), width * number_bytes, context.available_bytes.get(device), sizes.total_bytes
        ),
        together=max(1, DECODED_PX // _pixels(spec)) if component == "vae" else None,
        files=(path,),
    )


def _measured(
    component: str, path: Path, number_bytes: int, expand: bool, context: LoadContext
) -> tuple[ComponentSizes, int]:
    """Return the memory of a file's weights, and the main width of its network."""
    from mold_flux.checkpoints import component_tensors

    sources = component_tensors(component, open_weights(path, context.loaders))
    unit = {"transformer": _TRANSFORMER_UNIT, "t5_encoder": _T5_UNIT}.get(component)
    return measure(sources, number_bytes, expand=expand, unit=unit), _width(component, sources)


def _from_catalog(component: str, spec: ModelSpec, number_bytes: int) -> tuple[ComponentSizes, int]:
    """Return the sizes of a file that is not downloaded, from the catalog."""
    file = next(file for file in spec.files if file.component == component)
    stored_bytes = 1 if component == "transformer" and spec.tag not in ("bf16", "fp16") else 2
    total = (file.size_bytes or 0) * (number_bytes // 2 if stored_bytes == 2 else 1)
    staying, largest = {
        "transformer": (_STAYING_SHARE, _LARGEST_SHARE),
        "t5_encoder": (_T5_STAYING_SHARE, _T5_LARGEST_SHARE),
    }.get(component, (1.0, 0.0))
    sizes = ComponentSizes(total_bytes=total, staying_bytes=int(total * staying), largest_bytes=int(total * largest))
    return sizes, _WIDTHS[component]


# The channels of FLUX.1, and the tensors whose shapes have those of other sizes.
_WIDTHS = {"transformer": 3072, "t5_encoder": 4096, "clip_encoder": 768, "vae": 128}
_DISTINCTIVE = {
    "transformer": ("img_in.weight", "x_embedder.weight"),
    "t5_encoder": ("final_layer_norm.weight", "enc.output_norm.weight"),
    "clip_encoder": ("final_layer_norm.weight",),
    "vae": ("decoder.norm_out.weight", "decoder.conv_norm_out.weight"),
}


def _width(component: str, sources: Mapping[str, Any]) -> int:
    for name, source in sources.items():
        if name.endswith(_DISTINCTIVE[component]):
            return int(source.shape[0])
    return _WIDTHS[component]


def _edits(spec: ModelSpec, path: Path) -> bool:
    """Return whether a transformer gets the tokens of an image to edit in addition to those of the generated image."""
    return spec.options.get("variant") == "kontext" or "kontext" in path.name.lower()


def _working_bytes(component: str, spec: ModelSpec, width: int, *, edits: bool = False) -> int:
    """Return the count of numbers in memory, besides the weights, for one image of the model's default size."""
    text_tokens = int(spec.options.get("text_tokens", 512))
    image_tokens = _pixels(spec) // 256 * (2 if edits else 1)
    tokens = {"transformer": image_tokens + text_tokens, "t5_encoder": text_tokens}.get(component, 77)
    return tokens * width * _TOKEN_WIDTHS


def vae_tile_px(width_bytes: int, available_bytes: int | None, weight_bytes: int) -> int:
    """Return the side, in pixels, of the tiles in which an image is decoded: the largest that fits with the weights.

    `width_bytes` are the bytes per pixel in the last level. `available_bytes` is None if there is no limit.
    """
    left = None if available_bytes is None else available_bytes - weight_bytes
    fitting = (side for side in VAE_TILES_PX if left is None or side**2 * width_bytes * _PIXEL_WIDTHS <= left)
    return next(fitting, VAE_TILES_PX[-1])


def vae_working_bytes(pixels: int, width_bytes: int, available_bytes: int | None, weight_bytes: int) -> int:
    """Return the memory, besides the weights, to decode an image of `pixels`; in tiles if memory is short."""
    tile = vae_tile_px(width_bytes, available_bytes, weight_bytes)
    return min(pixels, tile**2) * width_bytes * _PIXEL_WIDTHS


def _pixels(spec: ModelSpec) -> int:
    return (spec.defaults.width or 1024) * (spec.defaults.height or 1024)
