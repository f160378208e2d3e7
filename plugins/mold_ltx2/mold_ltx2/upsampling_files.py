"""Recognise files of networks that upsample latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from attrs import frozen

from mold_core import CheckpointError

__all__ = ["Recognised", "UpsamplerKind", "recognise_upsampler"]

# Kinds of upsamplers, for the fields spatial_upscale and temporal_upscale of requests.
UpsamplerKind = Literal["spatial-x2", "spatial-x1-5", "temporal-x2"]

# The factor by which a rational resampler upsamples before it downsamples by two → its kind and scale.
_RATIONAL: Mapping[int, tuple[UpsamplerKind, float]] = {2: ("spatial-x2", 2.0), 3: ("spatial-x1-5", 1.5)}


@frozen
class Recognised:
    """The kind of an upsampler, and its sizes for diffusers' LTX2LatentUpsamplerModel."""

    kind: UpsamplerKind
    config: Mapping[str, Any]


def recognise_upsampler(tensors: Mapping[str, Any]) -> Recognised:
    """Return the kind and sizes of an upsampler by its tensors. Raises CheckpointError for other tensors."""
    first = tensors.get("initial_conv.weight")
    if first is None:
        raise CheckpointError("this file holds no upsampler of latents")
    channels = int(first.shape[0])
    kind, rational_scale = _kind(tensors, channels)
    return Recognised(
        kind,
        {
            "mid_channels": channels,
            "in_channels": int(first.shape[1]),
            "dims": len(first.shape) - 2,
            "num_blocks_per_stage": len({name.split(".")[1] for name in tensors if name.startswith("res_blocks.")}),
            "spatial_upsample": kind != "temporal-x2",
            "temporal_upsample": kind == "temporal-x2",
            "use_rational_resampler": rational_scale is not None,
            "rational_spatial_scale": rational_scale or 2.0,
        },
    )


def _kind(tensors: Mapping[str, Any], channels: int) -> tuple[UpsamplerKind, float | None]:
    """Return the kind of an upsampler, and the scale of its rational resampler if it has one."""
    rational, plain = tensors.get("upsampler.conv.weight"), tensors.get("upsampler.0.weight")
    if rational is not None:
        factor = round((rational.shape[0] / channels) ** 0.5)
        if factor in _RATIONAL:
            return _RATIONAL[factor]
    elif plain is not None:
        times, axes = plain.shape[0] // channels, len(plain.shape) - 2
        if (times, axes) == (4, 2):
            return "spatial-x2", None
        if (times, axes) == (2, 3):
            return "temporal-x2", None
    raise CheckpointError(
        "this upsampler of latents is of an unknown kind",
        hint=f"known are {', '.join(get_args(UpsamplerKind))}",
    )
