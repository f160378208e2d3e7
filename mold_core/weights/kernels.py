"""Dequantization of blocks, written as one fusible loop per type, for torch.compile.

Every function takes blocks, uint8 [n, bytes of a block], the same bytes as fp16 [n, half as many], and `out` [n, block
size]. It writes the numbers to `out`, rounded to its dtype and equal to those of `blocks32` and `blocks256` to the last
bit. (int8 and fp8 have blocks of one number: they take bytes [rows, columns] and fp32 scales [rows, 1].)

PERF: inductor's C++ is fast because everything, scales included, is one expression over the dimensions of the bytes,
written through a view of `out`; the innermost dimension has 16 or more contiguous numbers; bit operations use 32 bits;
shifts come from `arange`. A `cat`, a constant tensor or a reshape of the result makes it 5 to 20 times slower. As eager
code these functions are slower than those of `blocks32` and `blocks256`, so both exist.

NOTE: one function per type: torch compiles a function object for at most 8 kinds of arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mold_core.weights.blocks32 import IQ4_LEVELS

__all__ = ["KERNELS", "Source"]

Source = Callable[[Tensor, Tensor, Tensor], None]


def q4_0(blocks: Tensor, halves: Tensor, out: Tensor) -> None:
    """Scale, then 32 half bytes minus 8."""
    numbers = _nibbles(blocks[:, None, 2:18]) - 8
    out.view(-1, 2, 16).copy_(numbers.float() * _fp16(halves, 0))


def q4_1(blocks: Tensor, halves: Tensor, out: Tensor) -> None:
    """Scale, minimum, then 32 half bytes."""
    numbers = _nibbles(blocks[:, None, 4:20])
    out.view(-1, 2, 16).copy_(numbers.float() * _fp16(halves, 0) + _fp16(halves, 1))


def q5_0(blocks: Tensor, halves: Tensor, out: Tensor) -> None:
    """Scale, the fifth bits, then 32 half bytes; minus 16."""
    numbers = (_nibbles(blocks[:, None, 6:22]) | _fifth_bits(blocks[:, 2:6])) - 16
    out.view(-1, 2, 16).copy_(numbers.float() * _fp16(halves, 0))


def q5_1(blocks: Tensor, halves: Tensor, out: Tensor) -> None:
    """Scale, minimum, the fifth bits, then 32 half bytes."""
    numbers = _nibbles(blocks[:, None, 8:24]) | _fifth_bits(blocks[:, 4:8])
    out.view(-1, 2, 16).copy_(numbers.float() * _fp16(halves, 0) + _fp16(halves, 1))


def q8_0(blocks: Tensor, halves: Tensor, out: Tensor) -> None:
    """Scale, then 32 signed bytes."""
    out.copy_(blocks.view(torch.int8)[:, 2:34].float() * halves[:, :1].float())


def iq4_nl(blocks: Tensor, halves: Tensor, out: Tensor) -> None:
    """Scale, then 32 half bytes that index 16 non-uniform levels."""
    out.view(-1, 2, 16).copy_(_levels(_nibbles(blocks[:, None, 2:18])) * _fp16(halves, 0))


def iq4_xs(blocks: Tensor, halves: Tensor, out: Tensor) -> None:
    """Scale, upper and lower bits of 8 scales, 256 half bytes that index non-uniform levels: [n, 4, 2, half, 16]."""
    levels = _levels(_nibbles(blocks[:, 8:136].view(-1, 4, 2, 1, 16)))
    low = (blocks[:, 4:8, None].int() >> _shifts(2, 4, blocks)) & 15
    high = (blocks[:, 2:4, None].int() >> _shifts(4, 2, blocks)) & 3
    factors = _fp16(halves, 0) * ((low | (high.view(-1, 4, 2) << 4)) - 32).float()
    out.view(-1, 4, 2, 2, 16).copy_(levels * factors[..., None, None])


def q2_k(blocks: Tensor, halves: Tensor, out: Tensor) -> None:
    """16 bytes of scales and minimums, 256 numbers of 2 bits, scale, minimum: [n, 2, shift, 2, 16]."""
    numbers = (blocks[:, 16:80].view(-1, 2, 1, 2, 16).int() >> _shifts(4, 2, blocks)[:, None, None]) & 3
    packed = blocks[:, :16].view(-1, 2, 4, 2, 1).int()
    factors = halves[:, None, None, None, 40:41].float() * (packed & 15).float()
    offsets = halves[:, None, None, None, 41:42].float() * (packed >> 4).float()
    out.view(-1, 2, 4, 2, 16).copy_(numbers.float() * factors - offsets)


def q3_k(blocks: Tensor, halves: Tensor, out: Tensor) -> None:
    """Third bits, 256 numbers of 2 bits, 16 scales of 6 bits, scale: [n, 2, upper and lower shift, 2, 16]."""
    low = (blocks[:, 32:96].view(-1, 2, 1, 1, 2, 16).int() >> _shifts(4, 2, blocks).view(2, 2, 1, 1)) & 3
    high = (
        blocks[:, None, None, None, :32].view(-1, 1, 1, 1, 2, 16).int() >> _shifts(8, 1, blocks).view(2, 2, 2, 1, 1)
    ) & 1
    scales_low = (blocks[:, 96:104].view(-1, 1, 2, 2, 2).int() >> _shifts(2, 4, blocks).view(2, 1, 1, 1)) & 15
    scales_high = (blocks[:, 104:108].view(-1, 1, 1, 2, 2).int() >> _shifts(4, 2, blocks).view(2, 2, 1, 1)) & 3
    factors = ((scales_low | (scales_high << 4)) - 32).float() * halves[:, 54].float()[:, None, None, None, None]
    numbers = (low | (high << 2)) - 4
    out.view(-1, 2, 2, 2, 2, 16).copy_(numbers.float() * factors[..., None])


def q4_k(blocks: Tensor, halves: Tensor, out: Tensor) -> None:
    """Scale, minimum, 8 scales and 8 minimums of 6 bits, 256 half bytes: [n, 2, 2, half, 32]."""
    factors, offsets = _scales_and_minimums(blocks, halves)
    numbers = _nibbles(blocks[:, 16:144].view(-1, 2, 2, 1, 32))
    out.view(-1, 2, 2, 2, 32).copy_(numbers.float() * factors - offsets)


def q5_k(blocks: Tensor, halves: Tensor, out: Tensor) -> None:
    """Scale, minimum, 8 scales and 8 minimums of 6 bits, the fifth bits, 256 half bytes: [n, 2, 2, half, 32]."""
    factors, offsets = _scales_and_minimums(blocks, halves)
    low = _nibbles(blocks[:, 48:176].view(-1, 2, 2, 1, 32))
    high = (blocks[:, 16:48].view(-1, 1, 1, 1, 32).int() >> _shifts(8, 1, blocks).view(2, 2, 2, 1)) & 1
    out.view(-1, 2, 2, 2, 32).copy_((low | (high << 4)).float() * factors - offsets)


def q6_k(blocks: Tensor, halves: Tensor, out: Tensor) -> None:
    """256 half bytes, their upper 2 bits, 16 signed scales, scale; minus 32: [n, 2, half, 2, 2, 16]."""
    low = (blocks[:, :128].view(-1, 2, 1, 2, 2, 16).int() >> _shifts(2, 4, blocks).view(2, 1, 1, 1)) & 15
    high = (blocks[:, 128:192].view(-1, 2, 1, 1, 2, 16).int() >> _shifts(4, 2, blocks).view(2, 2, 1, 1)) & 3
    scales = blocks.view(torch.int8)[:, 192:208].view(-1, 2, 2, 2, 2, 1).float()
    factors = halves[:, 104].float().view(-1, 1, 1, 1, 1, 1) * scales
    out.view(-1, 2, 2, 2, 2, 16).copy_(((low | (high << 4)) - 32).float() * factors)


def int8(raw: Tensor, scales: Tensor, out: Tensor) -> None:
    """Signed bytes."""
    out.copy_(raw.view(torch.int8).float() * scales)


def f8_e4m3(raw: Tensor, scales: Tensor, out: Tensor) -> None:
    """4 exponent and 3 mantissa bits, as in fp32 except for the exponent's bias. No infinities."""
    magnitude = raw.int() & 127
    numbers = (magnitude << 20).view(torch.float32) * 2.0**120
    numbers = torch.where(magnitude == 127, float("nan"), numbers)
    out.copy_(torch.where(raw > 127, -numbers, numbers) * scales)


def f8_e5m2(raw: Tensor, scales: Tensor, out: Tensor) -> None:
    """5 exponent and 2 mantissa bits, with infinities."""
    magnitude = raw.int() & 127
    numbers = (magnitude << 21).view(torch.float32) * 2.0**112
    numbers = torch.where(magnitude >= 124, torch.where(magnitude > 124, float("nan"), float("inf")), numbers)
    out.copy_(torch.where(raw > 127, -numbers, numbers) * scales)


KERNELS: Mapping[str, Source] = {
    "Q4_0": q4_0,
    "Q4_1": q4_1,
    "Q5_0": q5_0,
    "Q5_1": q5_1,
    "Q8_0": q8_0,
    "Q2_K": q2_k,
    "Q3_K": q3_k,
    "Q4_K": q4_k,
    "Q5_K": q5_k,
    "Q6_K": q6_k,
    "IQ4_NL": iq4_nl,
    "IQ4_XS": iq4_xs,
    "INT8": int8,
    "F8_E4M3": f8_e4m3,
    "F8_E5M2": f8_e5m2,
}


def _shifts(count: int, size: int, like: Tensor) -> Tensor:
    """Return 0, size, 2 size, …: the shifts that extract pieces of `size` bits."""
    return torch.arange(0, count * size, size, dtype=torch.int32, device=like.device)


def _fp16(halves: Tensor, index: int) -> Tensor:
    """Return the fp16 number at an index of each block, fp32 [n, 1, 1]."""
    return halves[:, None, index : index + 1].float()


def _nibbles(raw: Tensor) -> Tensor:
    """Return bytes [..., 1, k] as their low and high halves, int32 [..., 2, k]."""
    return (raw.int() >> _shifts(2, 4, raw)[:, None]) & 15


def _fifth_bits(raw: Tensor) -> Tensor:
    """Return the bits of four bytes, times 16, int32 [n, 2, 16]."""
    pairs = raw.view(-1, 2, 2).int()
    words = pairs[:, :, 0] | (pairs[:, :, 1] << 8)
    return ((words[:, :, None] >> _shifts(16, 1, raw)) & 1) << 4


def _levels(numbers: Tensor) -> Tensor:
    """Return the levels of IQ4, fp32, at indices below 16.

    PERF: each word packs four levels, which comparisons and shifts select; a table lookup is 5 times slower.
    """
    words = [torch.full((), _word(first), dtype=torch.int32, device=numbers.device) for first in (0, 4, 8, 12)]
    upper = torch.where(numbers >= 12, words[3], words[2])
    word = torch.where(numbers >= 8, upper, torch.where(numbers >= 4, words[1], words[0]))
    return ((word << ((3 - (numbers & 3)) << 3)) >> 24).float()


def _word(first: int) -> int:
    levels = bytes(level & 255 for level in IQ4_LEVELS[first : first + 4])
    return int.from_bytes(levels, "little", signed=True)


def _scales_and_minimums(blocks: Tensor, halves: Tensor) -> tuple[Tensor, Tensor]:
    """Return scales and minimums, fp32 [n, 2, 2, 2, 1], of Q4_K and Q5_K; `blocks256` describes their layout."""
    first, second, third = blocks[:, 4:16].view(-1, 3, 1, 2, 2).int().unbind(1)
    late = torch.arange(2, dtype=torch.int32, device=blocks.device).view(2, 1, 1) != 0
    scales = torch.where(late, (third & 15) | ((first >> 6) << 4), first & 63)
    minimums = torch.where(late, (third >> 4) | ((second >> 6) << 4), second & 63)
    factors = halves[:, :1].view(-1, 1, 1, 1).float() * scales.float()
    offsets = halves[:, 1:2].view(-1, 1, 1, 1).float() * minimums.float()
    return factors[..., None], offsets[..., None]
