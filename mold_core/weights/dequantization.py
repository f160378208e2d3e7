"""Dequantization of blocks, in pieces small enough for the processor's cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
import torch
from torch import Tensor

from mold_core.errors import CheckpointError
from mold_core.weights import blocks32, blocks256
from mold_core.weights.types import StoredType

__all__ = ["Kernel", "dequantize", "dequantize_into"]

_EXPANSIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": blocks32.q4_0,
    "Q4_1": blocks32.q4_1,
    "Q5_0": blocks32.q5_0,
    "Q5_1": blocks32.q5_1,
    "Q8_0": blocks32.q8_0,
    "Q2_K": blocks256.q2_k,
    "Q3_K": blocks256.q3_k,
    "Q4_K": blocks256.q4_k,
    "Q5_K": blocks256.q5_k,
    "Q6_K": blocks256.q6_k,
    "IQ4_NL": blocks32.iq4_nl,
    "IQ4_XS": blocks256.iq4_xs,
    "INT8": blocks32.int8,
    "F8_E4M3": blocks32.f8_e4m3,
    "F8_E5M2": blocks32.f8_e5m2,
}

# Numbers dequantized at a time. PERF: on a CPU, intermediate results stay in the cache; elsewhere, large kernels win.
_CPU_NUMBERS = 2**18
_NUMBERS = 2**24

# Fewer blocks are not worth the call, and compilers specialise on sizes 0 and 1.
FEWEST = 64


@attrs.frozen(kw_only=True, eq=False)
class Kernel:
    """Compiled dequantization of one type to one dtype, for one kind of device."""

    type: StoredType
    dtype: torch.dtype
    place: str
    run: Callable[[Tensor, Tensor, Tensor], object]

    def fits(self, out: Tensor, rows: Tensor) -> bool:
        """Return whether the kernel can write rows of blocks, uint8 [n, bytes of a row], to `out` [n, columns]."""
        return (
            out.dtype == self.dtype
            and out.device.type == self.place
            and rows.numel() >= FEWEST * self.type.block_bytes
            and min(rows.shape) > 1
            and rows.is_contiguous()
            and rows.storage_offset() % 2 == 0
        )

    def expand(self, out: Tensor, rows: Tensor, scale: Tensor | None) -> None:
        """Write the numbers of rows of blocks; `scale` as in `dequantize_into`."""
        if self.type.block_size == 1:
            scales = torch.ones((), device=rows.device) if scale is None else scale
            self.run(rows, scales.expand(len(rows), 1).contiguous(), out)
        else:
            blocks = rows.view(-1, self.type.block_bytes)
            self.run(blocks, blocks.view(torch.float16), out.view(-1, self.type.block_size))


def dequantize(blocks: Tensor, type_: StoredType, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the numbers [n, block size] of blocks, uint8 [n, bytes of a block].

    They are computed in float32, equal to gguf-py's to the last bit, and then rounded to `dtype`; NaN stays NaN. Works
    on any device. Raises CheckpointError for a type without blocks.
    """
    expansion = _EXPANSIONS.get(type_.name)
    if expansion is None:
        raise CheckpointError(f"{type_.name} is not a quantised type (supported: {', '.join(_EXPANSIONS)})")
    return expansion(blocks).to(dtype)


def dequantize_into(
    out: Tensor, rows: Tensor, type_: StoredType, scale: Tensor | None = None, kernel: Kernel | None = None
) -> None:
    """Write the numbers of rows, uint8 [n, bytes of a row], to `out` [n, columns], rounded to its dtype.

    They are multiplied by `scale`, float32 [] or [n, 1], before rounding. `rows` and `out` are contiguous. A compiled
    `kernel` for the type is used where it fits, with the same results.
    """
    if kernel is not None and kernel.fits(out, rows):
        kernel.expand(out, rows, scale)
        return
    per_row = out.shape[1]
    if not out.numel():
        return
    step = max(1, (_CPU_NUMBERS if out.device.type == "cpu" else _NUMBERS) // per_row)
    for first in range(0, len(rows), step):
        piece = rows[first : first + step]
        numbers = dequantize(piece.view(-1, type_.block_bytes), type_).view(len(piece), per_row)
        if scale is not None:
            numbers.mul_(scale if scale.ndim == 0 else scale[first : first + step])
        out[first : first + step].copy_(numbers)
