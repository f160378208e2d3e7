"""Spandrel's architectures as one upscaler architecture of mold. The first file to recognise imports torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mold_core import CheckpointError, UpscalerArchitecture, UpscalerNetwork

if TYPE_CHECKING:
    from mold_core import LoadContext
    from mold_core.weights import TensorSource

__all__ = ["Spandrel"]

# Keys under which trainers store a network in a file, best first.
_WRAPPERS = ("params_ema.", "params-ema.", "params.", "state_dict.", "model_state_dict.", "net_g.", "module.", "netG.")
# mold_esrgan loads these, with a suitable dtype and a measured receptive field.
_OF_MOLD = frozenset({"ESRGAN", "Compact"})
_PURPOSES = frozenset({"SR", "Restoration"})

_MAX_TENSORS = 20_000
_MAX_NUMBERS = 400_000_000
# Input channels of images, also with pixel unshuffle.
_IMAGE_CHANNELS = frozenset({1, 3, 4, 12, 16, 48})
_MAX_KERNEL = 7
# Autoencoders, UNets, ControlNets and image encoders have such names.
_OTHER_NETWORKS = (
    "control_model.",
    "controlnet_",
    "decoder.",
    "encoder.",
    "first_stage_model.",
    "input_blocks.",
    "input_hint_block.",
    "model.diffusion_model.",
    "vae.",
    "vision_model.",
)

# Attention reaches beyond a tile; the overlap hides most of the difference.
_OVERLAP, _FEATHER = 64, 16
_TILE, _LARGE_TILE = 256, 1024
_BYTES_PER_PIXEL = 32_768


class Spandrel(UpscalerArchitecture):
    """SPAN, RealPLKSR, DAT, HAT, SwinIR, OmniSR, Real-CUGAN and about thirty others."""

    name = "spandrel"

    def recognises(self, tensors: Mapping[str, TensorSource]) -> bool:
        """Return whether the names of the tensors match an architecture of spandrel."""
        return _may_be_one(tensors) and _detected(_unwrapped(tensors)) is not None

    def load(self, tensors: Mapping[str, TensorSource], context: LoadContext) -> UpscalerNetwork:
        """Return the network. Raises CheckpointError for networks that do not upscale images and for damaged files."""
        from mold_spandrel.loading import load_descriptor, runner

        named = _unwrapped(tensors)
        architecture = _detected(named)
        descriptor = load_descriptor(architecture, named, context)
        _check(descriptor)
        run, size_bytes, close = runner(descriptor, context)
        needs = descriptor.size_requirements
        multiple = _multiple(descriptor)
        whole = descriptor.tiling.name != "SUPPORTED"
        return UpscalerNetwork(
            module=run,
            scale=descriptor.scale,
            size_bytes=size_bytes,
            multiple=multiple,
            min_side=max(needs.minimum, 1),
            overlap=_rounded_up(_OVERLAP, multiple),
            feather=_FEATHER,
            tile=_rounded_up(_LARGE_TILE if whole else _TILE, multiple),
            bytes_per_pixel=_BYTES_PER_PIXEL,
            close=close,
        )


def _may_be_one(tensors: Mapping[str, TensorSource]) -> bool:
    """Return whether the tensors may be an upscaler: not too large, and with a small convolution of an image.

    PERF: importing spandrel and torch takes seconds, and folders of models have thousands of other files.
    """
    shapes = [tuple(source.shape) for source in tensors.values()]
    if len(shapes) > _MAX_TENSORS or sum(map(math.prod, shapes)) > _MAX_NUMBERS:
        return False
    return any(
        len(shape) == 4 and shape[1] in _IMAGE_CHANNELS and shape[2] <= _MAX_KERNEL
        for shape, name in zip(shapes, tensors, strict=True)
        if not name.startswith(_OTHER_NETWORKS)
    )


def _detected(tensors: Mapping[str, TensorSource]) -> Any:
    """Return the architecture that matches the names of tensors, or None."""
    from mold_spandrel.registry import registry

    # NOTE: in spandrel's own order, because some architectures contain the names of others.
    for support in registry().architectures("detection"):
        if support.detect(tensors):
            return None if support.architecture.id in _OF_MOLD else support.architecture
    return None


def _unwrapped(tensors: Mapping[str, TensorSource]) -> dict[str, TensorSource]:
    for wrapper in _WRAPPERS:
        inner = {name.removeprefix(wrapper): source for name, source in tensors.items() if name.startswith(wrapper)}
        if inner:
            return inner
    return dict(tensors)


def _check(descriptor: Any) -> None:
    name = descriptor.architecture.name
    if getattr(descriptor, "purpose", None) not in _PURPOSES or not callable(descriptor):
        raise CheckpointError(f"{name} does not enlarge or restore whole images; its purpose is {descriptor.purpose}")
    if (descriptor.input_channels, descriptor.output_channels) != (3, 3):
        raise CheckpointError(
            f"this {name} takes images of {descriptor.input_channels} channels and returns"
            f" {descriptor.output_channels}; upscalers have 3 and 3"
        )


def _multiple(descriptor: Any) -> int:
    """Return the number that divides sides and tile offsets, which includes the size of attention windows."""
    window = getattr(descriptor.model, "window_size", 1)
    return math.lcm(descriptor.size_requirements.multiple_of, window if isinstance(window, int) else 1)


def _rounded_up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple
