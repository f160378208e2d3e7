"""Dequantization of ggml's super-blocks of 256 numbers: Q2_K to Q6_K, and IQ4_XS.

A super-block has 8 or 16 groups, each with a small integer scale (and minimum), which one or two fp16 numbers multiply.
As in `blocks32`, functions map uint8 [n, bytes of a block] to float32 [n, 256] and match gguf-py bit for bit. Layouts
are those of ggml-common.h and ggml-quants.c (https://github.com/ggml-org/ggml).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mold_core.weights.blocks32 import grouped, half, nibbles, sixteen_levels

__all__ = ["iq4_xs", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"]


def q2_k(blocks: Tensor) -> Tensor:
    """16 bytes of scales (low half) and minimums (high half), 256 numbers of 2 bits, scale, minimum."""
    scales, minimums = blocks[:, :16] & 15, blocks[:, :16] >> 4
    factors = half(blocks[:, 80:82]) * scales.float()
    offsets = half(blocks[:, 82:84]) * minimums.float()
    numbers = grouped(_pieces(blocks[:, 16:80], 32, 2).float(), 16)
    return numbers.mul_(factors[:, :, None]).sub_(offsets[:, :, None]).flatten(1)


def q3_k(blocks: Tensor) -> Tensor:
    """The third bits (0 subtracts 4), 256 numbers of 2 bits, 16 scales of 6 bits minus 32, scale."""
    packed = blocks[:, 96:108]
    low = torch.cat([packed[:, :8] & 15, packed[:, :8] >> 4], dim=1)
    high = _pieces(packed[:, 8:], 4, 2)
    factors = half(blocks[:, 108:110]) * (low | (high << 4)).float().sub_(32)
    numbers = _pieces(blocks[:, 32:96], 32, 2).float()
    numbers = numbers.add_(_pieces(blocks[:, :32], 32, 1), alpha=4).sub_(4)
    return grouped(numbers, 16).mul_(factors[:, :, None]).flatten(1)


def q4_k(blocks: Tensor) -> Tensor:
    """Scale, minimum, 8 scales and 8 minimums of 6 bits, 256 half bytes."""
    factors, offsets = _scales_and_minimums(blocks)
    numbers = grouped(nibbles(blocks[:, 16:], 32), 32)
    return numbers.mul_(factors).sub_(offsets).flatten(1)


def q5_k(blocks: Tensor) -> Tensor:
    """Scale, minimum, 8 scales and 8 minimums of 6 bits, the fifth bits, 256 half bytes."""
    factors, offsets = _scales_and_minimums(blocks)
    numbers = nibbles(blocks[:, 48:], 32).add_(_pieces(blocks[:, 16:48], 32, 1), alpha=16)
    return grouped(numbers, 32).mul_(factors).sub_(offsets).flatten(1)


def q6_k(blocks: Tensor) -> Tensor:
    """256 half bytes, their upper 2 bits, 16 signed scales, scale; minus 32."""
    factors = half(blocks[:, 208:210]) * blocks[:, 192:208].view(torch.int8).float()
    numbers = nibbles(blocks[:, :128], 64).add_(_pieces(blocks[:, 128:192], 32, 2), alpha=16).sub_(32)
    return grouped(numbers, 16).mul_(factors[:, :, None]).flatten(1)


def iq4_xs(blocks: Tensor) -> Tensor:
    """Scale, the upper 2 and the lower 4 bits of 8 scales minus 32, 256 half bytes that index non-uniform levels."""
    low = torch.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], dim=2).flatten(1)
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=blocks.device)
    high = ((blocks[:, 2:4, None] >> shifts) & 3).flatten(1)
    factors = half(blocks[:, :2]) * (low | (high << 4)).float().sub_(32)
    return grouped(sixteen_levels(blocks[:, 8:]), 32).mul_(factors[:, :, None]).flatten(1)


def _pieces(raw: Tensor, width: int, size: int) -> Tensor:
    """Return the `size`-bit pieces of bytes, uint8 [n, pieces]: per `width` bytes, first the lowest bits of each."""
    shifts = torch.arange(0, 8, size, dtype=torch.uint8, device=raw.device)[:, None]
    return ((grouped(raw, width)[:, :, None] >> shifts) & ((1 << size) - 1)).flatten(1)


def _scales_and_minimums(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return scales and minimums [n, 8, 1], float32, of Q4_K and Q5_K.

    Bytes 4 to 15 hold four scales, four minimums, and the low halves of four more scales and minimums. The upper 2 bits
    of the latter are the upper 2 bits of the first eight bytes.
    """
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat([first & 63, (third & 15) | ((first >> 6) << 4)], dim=1)
    minimums = torch.cat([second & 63, (third >> 4) | ((second >> 6) << 4)], dim=1)
    return (
        (half(blocks[:, :2]) * scales.float())[:, :, None],
        (half(blocks[:, 2:4]) * minimums.float())[:, :, None],
    )
