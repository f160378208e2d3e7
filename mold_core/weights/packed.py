"""Tensors that stay quantised in memory, and the scratch memory they are expanded into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from mold_core.errors import CheckpointError
from mold_core.weights.dequantization import dequantize_into
from mold_core.weights.types import StoredType

if TYPE_CHECKING:
    from mold_core.weights.dequantization import Kernel

__all__ = ["PackedTensor", "Scratch", "concatenate"]

# Numbers that are expanded before they are used: enough for a matrix product to be worth its start.
_SCRATCH_NUMBERS = 2**23


@attrs.frozen(kw_only=True, eq=False)
class PackedTensor:
    """Quantised numbers: rows of blocks, `data` uint8 [rows, bytes of a row], that stand for a tensor of `shape`.

    fp8 numbers are blocks of one; `scale`, float32 [] or [rows, 1], is what their numbers are to be multiplied by, and
    `input_scale`, float32 [], what the inputs of an fp8 product are to be divided by, where the file says so.
    """

    data: Tensor
    type: StoredType
    shape: tuple[int, ...]
    scale: Tensor | None = None
    input_scale: Tensor | None = None

    @property
    def ndim(self) -> int:
        """How many dimensions the tensor has."""
        return len(self.shape)

    @property
    def columns(self) -> int:
        """Numbers in a row of blocks."""
        return self.data.shape[1] // self.type.block_bytes * self.type.block_size

    @property
    def size_bytes(self) -> int:
        """Memory of blocks and scale."""
        scale = 0 if self.scale is None else self.scale.numel() * self.scale.element_size()
        return self.data.numel() + scale

    def to(self, device: str | torch.device) -> PackedTensor:
        """Return the same on a device."""
        scale = None if self.scale is None else self.scale.to(device)
        input_scale = None if self.input_scale is None else self.input_scale.to(device)
        return attrs.evolve(self, data=self.data.to(device), scale=scale, input_scale=input_scale)

    def expand(self, dtype: torch.dtype = torch.float32, kernel: Kernel | None = None) -> Tensor:
        """Return the numbers, rounded to `dtype`, as a tensor of `shape` on the device of the blocks.

        `kernel` is a compiled one from `kernel_for`, for speed.
        """
        out = torch.empty((len(self.data), self.columns), dtype=dtype, device=self.data.device)
        dequantize_into(out, self.data, self.type, self.scale, kernel)
        return out.view(self.shape)

    def chunk(self, count: int) -> tuple[PackedTensor, ...]:
        """Return `count` equal parts along the first dimension."""
        rows = len(self.data) // count
        parts = []
        for first in range(0, rows * count, rows):
            scale = self.scale if self.scale is None or self.scale.ndim == 0 else self.scale[first : first + rows]
            shape = (self.shape[0] // count, *self.shape[1:])
            parts.append(attrs.evolve(self, data=self.data[first : first + rows], shape=shape, scale=scale))
        return tuple(parts)


def concatenate(parts: Sequence[Tensor | PackedTensor]) -> Tensor | PackedTensor:
    """Return parts joined along the first dimension: quantised ones of one type stay so.

    Raises CheckpointError for quantised parts of different types, or beside others.
    """
    dense = [part for part in parts if isinstance(part, Tensor)]
    packed = [part for part in parts if isinstance(part, PackedTensor)]
    if not packed:
        return torch.cat(dense)
    if dense or len({(part.type, part.shape[1:]) for part in packed}) > 1:
        types = [part.type.name if isinstance(part, PackedTensor) else str(part.dtype) for part in parts]
        raise CheckpointError(f"parts of one layer are stored in different ways ({', '.join(types)})")
    scale = None
    if any(part.scale is not None for part in packed):
        scale = torch.cat([_row_scale(part) for part in packed])
    return PackedTensor(
        data=torch.cat([part.data for part in packed]),
        type=packed[0].type,
        shape=(sum(part.shape[0] for part in packed), *packed[0].shape[1:]),
        scale=scale,
        input_scale=_largest_input_scale(packed),
    )


def _largest_input_scale(parts: Sequence[PackedTensor]) -> Tensor | None:
    """Return an input scale that none of the parts' inputs overflows with; None if one says nothing of it."""
    found = [part.input_scale for part in parts if part.input_scale is not None]
    return torch.stack(found).amax() if len(found) == len(parts) else None


def _row_scale(part: PackedTensor) -> Tensor:
    scale = torch.ones(()) if part.scale is None else part.scale
    return scale.to(part.data.device).expand(len(part.data), 1)


class Scratch:
    """Memory that layers, one after the other, expand their weights into; at most `numbers`, however large they are.

    It grows to what is needed and is then used again: fresh memory for every layer costs more than the expansion. For
    layers that are used from one thread at a time.
    """

    def __init__(self, numbers: int = _SCRATCH_NUMBERS) -> None:
        self.numbers = numbers
        self._memory: Tensor | None = None

    def rows(self, wanted: int, columns: int, like: Tensor) -> Tensor:
        """Return memory [rows, columns] of the dtype and on the device of `like`; fewer rows than wanted if need be."""
        rows = min(wanted, max(1, self.numbers // max(1, columns)))
        memory = self._memory
        if (
            memory is None
            or memory.numel() < rows * columns
            or (memory.dtype, memory.device) != (like.dtype, like.device)
        ):
            self._memory = None  # freed before the new one is made
            with torch.inference_mode(False):  # a tensor made in inference mode could not be written to outside of it
                memory = self._memory = torch.empty(rows * columns, dtype=like.dtype, device=like.device)
        return memory[: rows * columns].view(rows, columns)
