"""Recognise networks by the names and shapes of a state dict, and rename their tensors to the official names.

There are three layouts of RRDBNet: that of BasicSR (`conv_first`, `body.0.rdb1.conv1`), with the trunk's convolution
called `conv_body` or numbered after the blocks; that of the first ESRGAN release (`RRDB_trunk`, `upconv1`, `HRconv`);
and the older numbered one (`model.1.sub.0.RDB1.conv1.0`). All may have a wrapper such as `params_ema`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol, TypeVar

from mold_core import CheckpointError
from mold_esrgan.configs import CompactConfig, RRDBConfig

__all__ = ["compact_config", "compact_tensors", "rrdb_config", "rrdb_tensors"]


class Shaped(Protocol):
    """A tensor's shape, which is all that recognition needs."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of its dimensions."""


T = TypeVar("T", bound=Shaped)

# Prefixes under which trainers store a network, best first: averaged weights precede others.
_WRAPPERS = ("params_ema", "params-ema", "params", "state_dict", "model_state_dict", "model", "net_g", "net", "module")

_FIRST_RELEASE = (
    (re.compile(r"^RRDB_trunk\.(\d+)\.RDB(\d)\."), r"body.\1.rdb\2."),
    (re.compile(r"^trunk_conv\."), "conv_body."),
    (re.compile(r"^upconv(\d)\."), r"conv_up\1."),
    (re.compile(r"^HRconv\."), "conv_hr."),
)
_NUMBERED_BLOCK = re.compile(r"^model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.")
_NUMBERED_TRUNK = re.compile(r"^model\.1\.sub\.(\d+)\.(weight|bias)$")
_NUMBERED = re.compile(r"^model\.(\d+)\.(weight|bias)$")
_BLOCK = re.compile(r"^body\.(\d+)\.rdb1\.conv1\.weight$")
_STAGE = re.compile(r"^conv_up(\d+)\.weight$")
_LAYER = re.compile(r"^body\.(\d+)\.(weight|bias)$")


# --- RRDBNet ---------------------------------------------------------------------------------------------------------


def rrdb_tensors(tensors: Mapping[str, T]) -> dict[str, T] | None:
    """Return the tensors of an RRDBNet under their official names; None if it is not one."""
    for candidate in _unwrapped(tensors):
        named = _officially_named(candidate)
        if "conv_first.weight" in named and "body.0.rdb1.conv1.weight" in named:
            return named
    return None


def rrdb_config(tensors: Mapping[str, T]) -> RRDBConfig:
    """Return the sizes of an RRDBNet from its officially named tensors. Raises CheckpointError."""
    features, channels = _conv_shape(tensors, "conv_first.weight")
    growth, _ = _conv_shape(tensors, "body.0.rdb1.conv1.weight")
    stages = max((int(found[1]) for found in map(_STAGE.match, tensors) if found), default=0)
    unshuffle = {3: 1, 12: 2, 48: 4}.get(channels)
    if unshuffle is None or 2**stages % unshuffle:
        raise CheckpointError(
            f"an RRDBNet with {channels} input channels and {stages} doublings is not one of Real-ESRGAN's; images"
            " have 3 channels, or 12 or 48 after unshuffling"
        )
    blocks = 1 + max(int(found[1]) for found in map(_BLOCK.match, tensors) if found)
    return RRDBConfig(blocks=blocks, features=features, growth=growth, stages=stages, unshuffle=unshuffle)


def _officially_named(tensors: Mapping[str, T]) -> dict[str, T]:
    if any(name.startswith("model.1.sub.") for name in tensors):
        return _from_numbers(tensors)
    named = {}
    for name, tensor in tensors.items():
        for pattern, replacement in _FIRST_RELEASE:
            name = pattern.sub(replacement, name)
        trunk = _LAYER.match(name)  # in RRDBNet only the trunk's convolution is a layer of the body by itself
        if trunk and "conv_first.weight" in tensors:
            name = f"conv_body.{trunk[2]}"
        named[name] = tensor
    return named


def _from_numbers(tensors: Mapping[str, T]) -> dict[str, T]:
    numbers = sorted({int(found[1]) for found in map(_NUMBERED.match, tensors) if found} - {0})
    # After the trunk come the doublings, then the two last convolutions; the layers between have no weights.
    outer = {0: "conv_first"}
    outer |= {number: f"conv_up{stage}" for stage, number in enumerate(numbers[:-2], start=1)}
    outer |= dict(zip(numbers[-2:], ("conv_hr", "conv_last"), strict=False))
    named = {}
    for name, tensor in tensors.items():
        if found := _NUMBERED_BLOCK.match(name):
            name = f"body.{found[1]}.rdb{found[2]}.conv{found[3]}.{name[found.end() :]}"
        elif found := _NUMBERED_TRUNK.match(name):
            name = f"conv_body.{found[2]}"
        elif found := _NUMBERED.match(name):
            name = f"{outer[int(found[1])]}.{found[2]}"
        named[name] = tensor
    return named


# --- SRVGGNetCompact -------------------------------------------------------------------------------------------------


def compact_tensors(tensors: Mapping[str, T]) -> dict[str, T] | None:
    """Return the tensors of an SRVGGNetCompact under their official names; None if it is not one."""
    for candidate in _unwrapped(tensors):
        first, slope = candidate.get("body.0.weight"), candidate.get("body.1.weight")
        if first is not None and slope is not None and len(first.shape) == 4 and len(slope.shape) == 1:
            return dict(candidate)
    return None


def compact_config(tensors: Mapping[str, T]) -> CompactConfig:
    """Return the sizes of an SRVGGNetCompact from its officially named tensors. Raises CheckpointError."""
    features, channels = _conv_shape(tensors, "body.0.weight")
    last = max(int(found[1]) for found in map(_LAYER.match, tensors) if found)
    outputs, _ = _conv_shape(tensors, f"body.{last}.weight")
    scale = round((outputs / 3) ** 0.5)
    if channels != 3 or outputs != 3 * scale**2 or last % 2 or last < 2:
        raise CheckpointError(
            f"an SRVGGNetCompact of {last + 1} layers from {channels} to {outputs} channels enlarges no images: 3"
            " channels go in and 3·scale² come out"
        )
    return CompactConfig(features=features, convs=(last - 2) // 2, scale=scale)


# --- both ------------------------------------------------------------------------------------------------------------


def _unwrapped(tensors: Mapping[str, T]) -> list[dict[str, T]]:
    """Return the tensors as they are, and without each of their wrappers, up to two levels."""
    found = [dict(tensors)]
    for outer in _WRAPPERS:
        inner = _below(tensors, outer)
        if inner:
            found += [inner, *(deeper for name in _WRAPPERS if (deeper := _below(inner, name)))]
    return found


def _below(tensors: Mapping[str, T], wrapper: str) -> dict[str, T]:
    prefix = f"{wrapper}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _conv_shape(tensors: Mapping[str, T], name: str) -> tuple[int, int]:
    """Return output and input channels of a 3x3 convolution."""
    shape = tuple(tensors[name].shape) if name in tensors else ()
    if len(shape) != 4 or shape[2:] != (3, 3):
        raise CheckpointError(f"{name} has shape {list(shape)} where a 3x3 convolution is needed")
    return shape[0], shape[1]
