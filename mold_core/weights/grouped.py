"""Numbers of 4 to 8 bits with one scale per group of columns: nvfp4, mxfp8, AWQ, SVDQuant, W4A8, nf4.

Rows of codes are packed in bytes. A code is the index of a level, which its group's scale multiplies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from mold_core.weights.dequantization import dequantize
from mold_core.weights.types import StoredType, type_named

__all__ = ["Groups", "scale_numbers", "tables_of_bytes", "write_grouped"]

# Numbers computed at a time: on a CPU, whose cache holds the intermediate results, and elsewhere.
_CPU_NUMBERS = 2**18
_NUMBERS = 2**24


@attrs.frozen(kw_only=True, eq=False)
class Groups:
    """The decoding of rows of codes: level x scale of the group + offset of the group.

    `scales` [rows, groups] are floating-point numbers or, as uint8, exponents of two (E8M0); None means 1 everywhere.
    Codes index `levels`, float32 [1 or rows, levels]; None means fp8 numbers. `offsets` is [rows, groups].
    With `rounded`, level x scale is rounded to an integer from -127 to 127 before the scale of the row applies.
    """

    scales: Tensor | None = None
    levels: Tensor | None = None
    offsets: Tensor | None = None
    rounded: bool = False

    def take(self, index: slice | Tensor) -> Groups:
        """Return the groups of some rows."""
        levels = self.levels if self.levels is None or len(self.levels) == 1 else self.levels[index]
        return attrs.evolve(
            self,
            scales=None if self.scales is None else self.scales[index],
            levels=levels,
            offsets=None if self.offsets is None else self.offsets[index],
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by their names."""
        found = {"scales": self.scales, "levels": self.levels, "offsets": self.offsets}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Groups:
        """Return a copy with other tensors."""
        new: dict[str, Any] = dict(tensors)
        return attrs.evolve(self, **new)


def write_grouped(
    out: Tensor,
    rows: Tensor,
    type_: StoredType,
    scale: Tensor | None,
    *,
    scales: Tensor | None = None,
    levels: Tensor | None = None,
    offsets: Tensor | None = None,
    rounded: bool = False,
) -> None:
    """Write the numbers of rows of codes, uint8 [n, bytes], to `out` [n, columns]. They are computed in float32.

    `scale`, float32 [] or [n, 1], multiplies the group scales, or the `rounded` integers. The rest is as in Groups.
    """
    step = max(1, (_CPU_NUMBERS if out.device.type == "cpu" else _NUMBERS) // max(1, out.shape[1]))

    def of(tensor: Tensor | None, some: slice) -> Tensor | None:
        return tensor if tensor is None or tensor.ndim == 0 or len(tensor) == 1 else tensor[some]

    for first in range(0, len(rows), step):
        some = slice(first, first + step)
        numbers = _numbers(
            rows[some], type_, of(scale, some), of(scales, some), of(levels, some), of(offsets, some), rounded
        )
        out[some].copy_(numbers)


def _numbers(
    rows: Tensor,
    type_: StoredType,
    scale: Tensor | None,
    scales: Tensor | None,
    levels: Tensor | None,
    offsets: Tensor | None,
    rounded: bool,
) -> Tensor:
    if levels is None:
        numbers = dequantize(rows.reshape(-1, type_.block_bytes), type_).view(len(rows), -1)
    else:
        numbers = _levels_of(rows, type_, levels)
    factors = None if scales is None else scale_numbers(scales)
    if rounded:
        numbers = _times(numbers, factors).round_().clamp_(-127, 127)
        factors = scale
    elif scale is not None:
        factors = scale if factors is None else factors * scale
    numbers = _times(numbers, factors)
    if offsets is not None:
        numbers.view(len(rows), offsets.shape[1], -1).add_(offsets.float()[..., None])
    return numbers


def _times(numbers: Tensor, factors: Tensor | None) -> Tensor:
    """Multiply numbers [n, columns] in place by factors [], [n, 1] or [n, groups]."""
    if factors is None:
        return numbers
    if factors.ndim == 0:
        return numbers.mul_(factors)
    numbers.view(len(numbers), factors.shape[1], -1).mul_(factors[..., None])
    return numbers


def scale_numbers(scales: Tensor) -> Tensor:
    """Return scales of groups in float32."""
    if scales.dtype == torch.float8_e4m3fn and scales.is_cpu and not torch.compiler.is_compiling():
        # PERF: torch converts fp8 numbers one by one.
        return dequantize(scales.view(torch.uint8).reshape(-1, 1), type_named("F8_E4M3")).view(scales.shape)
    if scales.dtype != torch.uint8:
        return scales.float()
    exponents = (scales.int() << 23).view(torch.float32)
    return torch.where(scales == 0, 2.0**-127, exponents)


def _levels_of(rows: Tensor, type_: StoredType, levels: Tensor) -> Tensor:
    if len(levels) == 1 and type_.block_bytes == 1:
        # PERF: one lookup per byte returns both of its numbers.
        return F.embedding(rows.int(), tables_of_bytes(type_, levels)).flatten(1)
    codes = _codes(rows, type_)
    return levels[0][codes] if len(levels) == 1 else levels.gather(1, codes)


def tables_of_bytes(type_: StoredType, levels: Tensor | None) -> Tensor:
    """Return the numbers that each byte of a type encodes, float32 [256, numbers per byte]; `levels` is [1, levels]."""
    if levels is None:
        return dequantize(torch.arange(256, dtype=torch.uint8)[:, None], type_)
    every = torch.arange(256, device=levels.device)
    low, high = levels[0][every & 15], levels[0][every >> 4]
    return torch.stack((high, low) if type_.name == "CODES4_HIGH" else (low, high), dim=1)


def _codes(rows: Tensor, type_: StoredType) -> Tensor:
    """Return the codes in rows of bytes, int64 [n, columns]."""
    columns = rows.shape[1] // type_.block_bytes * type_.block_size
    low = rows[:, : columns // 2]
    halves = (low >> 4, low & 15) if type_.name == "CODES4_HIGH" else (low & 15, low >> 4)
    codes = torch.stack(halves, dim=2).flatten(1).long()
    if type_.name == "CODES6":  # the lower four bits of all codes, then the upper two, four codes to a byte
        shifts = torch.arange(0, 8, 2, device=rows.device)
        codes |= ((rows[:, columns // 2 :, None].long() >> shifts) & 3).flatten(1) << 4
    return codes
