"""Dequantization of ggml's blocks of 32 numbers, and of fp8.

Every function takes blocks, uint8 [n, bytes of a block], and returns their numbers, float32 [n, block size]. Layouts
are those of ggml-common.h and ggml-quants.c (https://github.com/ggml-org/ggml). Products and sums are computed in
float32 in gguf-py's order (https://github.com/ggml-org/llama.cpp/tree/master/gguf-py), so results agree to the last
bit.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = [
    "IQ4_LEVELS",
    "f8_e4m3",
    "f8_e5m2",
    "grouped",
    "half",
    "iq4_nl",
    "nibbles",
    "q4_0",
    "q4_1",
    "q5_0",
    "q5_1",
    "q8_0",
    "sixteen_levels",
]

# The levels of IQ4_NL and IQ4_XS (kvalues_iq4nl in ggml-common.h).
IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def half(raw: Tensor) -> Tensor:
    """Return the fp16 numbers in bytes [n, 2k] as float32 [n, k]."""
    return raw.view(torch.float16).float()


def grouped(numbers: Tensor, width: int) -> Tensor:
    """Return rows [n, k] as groups [n, k / width, width], without a copy."""
    return numbers.view(len(numbers), numbers.shape[1] // width, width)


def nibbles(raw: Tensor, width: int) -> Tensor:
    """Return float32 [n, 2 * bytes]: for each `width` bytes, first the low halves, then the high ones."""
    groups = grouped(raw, width)
    return torch.stack([groups & 15, groups >> 4], dim=2).flatten(1).float()


def sixteen_levels(raw: Tensor) -> Tensor:
    """Return the levels, float32 [n, 2 * bytes], that half bytes index in IQ4; low halves of 16 bytes come first."""
    groups = grouped(raw, 16)
    numbers = torch.stack([groups & 15, groups >> 4], dim=2).int()
    return _levels(raw.device).index_select(0, numbers.flatten()).view(len(raw), -1)


@functools.lru_cache(maxsize=8)
def _levels(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(IQ4_LEVELS, dtype=torch.float32, device=device)


def q4_0(blocks: Tensor) -> Tensor:
    """Scale, then 32 half bytes minus 8."""
    return nibbles(blocks[:, 2:], 16).sub_(8).mul_(half(blocks[:, :2]))


def q4_1(blocks: Tensor) -> Tensor:
    """Scale, minimum, then 32 half bytes."""
    return nibbles(blocks[:, 4:], 16).mul_(half(blocks[:, :2])).add_(half(blocks[:, 2:4]))


def q5_0(blocks: Tensor) -> Tensor:
    """Scale, the fifth bits, then 32 half bytes; minus 16."""
    return _five_bits(blocks[:, 2:6], blocks[:, 6:]).sub_(16).mul_(half(blocks[:, :2]))


def q5_1(blocks: Tensor) -> Tensor:
    """Scale, minimum, the fifth bits, then 32 half bytes."""
    return _five_bits(blocks[:, 4:8], blocks[:, 8:]).mul_(half(blocks[:, :2])).add_(half(blocks[:, 2:4]))


def _five_bits(high: Tensor, low: Tensor) -> Tensor:
    # PERF: one lookup of eight bits is faster than eight shifts.
    sixteens = _sixteens(high.device).index_select(0, high.flatten().int())
    return nibbles(low, 16).add_(sixteens.view(len(high), -1))


@functools.lru_cache(maxsize=8)
def _sixteens(device: torch.device) -> Tensor:
    """Return 16 times the bits of every byte, lowest first: float32 [256, 8]."""
    with torch.inference_mode(False):
        every = torch.arange(256, device=device)[:, None]
        return ((every >> torch.arange(8, device=device)) & 1).float() * 16


def q8_0(blocks: Tensor) -> Tensor:
    """Scale, then 32 signed bytes."""
    return blocks[:, 2:].view(torch.int8).float().mul_(half(blocks[:, :2]))


def iq4_nl(blocks: Tensor) -> Tensor:
    """Scale, then 32 half bytes that index 16 non-uniform levels."""
    return sixteen_levels(blocks[:, 2:]).mul_(half(blocks[:, :2]))


def int8(blocks: Tensor) -> Tensor:
    """One signed byte."""
    return blocks.view(torch.int8).float()


def f8_e4m3(blocks: Tensor) -> Tensor:
    """One number of 4 exponent and 3 mantissa bits, without infinities (arXiv 2209.05433)."""
    return _fp8(blocks, torch.float8_e4m3fn)


def f8_e5m2(blocks: Tensor) -> Tensor:
    """One number of 5 exponent and 2 mantissa bits (arXiv 2209.05433)."""
    return _fp8(blocks, torch.float8_e5m2)


def _fp8(blocks: Tensor, dtype: torch.dtype) -> Tensor:
    if blocks.is_cuda:
        return blocks.view(dtype).float()
    # PERF: on CPUs torch converts fp8 numbers one by one; a lookup takes a fraction of the time. MPS has no fp8.
    return _every_fp8(dtype).to(blocks.device).index_select(0, blocks.flatten().int()).view(blocks.shape)


@functools.lru_cache(maxsize=2)
def _every_fp8(dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.arange(256, dtype=torch.uint8).view(dtype).float()
