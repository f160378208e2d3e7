"""Tensors that stay quantised in memory, and the scratch memory they are dequantized into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from mold_core.errors import CheckpointError
from mold_core.weights.dequantization import dequantize_into
from mold_core.weights.grouped import Groups, write_grouped
from mold_core.weights.rotation import rotated
from mold_core.weights.types import StoredType

if TYPE_CHECKING:
    from mold_core.weights.dequantization import Kernel
    from mold_core.weights.grouped_kernel import GroupedKernel

__all__ = ["LowRank", "PackedTensor", "Scratch", "concatenate"]

# Numbers to dequantize before their use: enough to make the start of a matrix product negligible.
_SCRATCH_NUMBERS = 2**23
# Numbers to rotate back at a time.
_ROTATED_NUMBERS = 2**22


@attrs.frozen(kw_only=True, eq=False)
class LowRank:
    """A full-precision addition to a quantised matrix: up [rows, rank] times down [rank, columns]."""

    down: Tensor
    up: Tensor


@attrs.frozen(kw_only=True, eq=False)
class PackedTensor:
    """A quantised tensor of `shape`, stored as rows of blocks: `data`, uint8 [rows, bytes of a row].

    int8 and fp8 numbers are blocks of one. If the file has them, `scale`, float32 [] or [rows, 1], multiplies the
    numbers, and `input_scale`, float32 [], divides the inputs of an fp8 product.

    Files of ComfyUI may store more for a matrix. `groups` decodes codes. The matrix may be stored rotated, in groups of
    `rotation` columns (0: not rotated). After rotating back, `column_scale`, float32 [columns], multiplies its columns
    (or the inputs), and `low_rank` is added.
    """

    data: Tensor
    type: StoredType
    shape: tuple[int, ...]
    scale: Tensor | None = None
    input_scale: Tensor | None = None
    groups: Groups | None = None
    rotation: int = 0
    column_scale: Tensor | None = None
    low_rank: LowRank | None = None

    @property
    def ndim(self) -> int:
        """Number of dimensions of the tensor."""
        return len(self.shape)

    @property
    def columns(self) -> int:
        """Numbers in a row of blocks."""
        return self.data.shape[1] // self.type.block_bytes * self.type.block_size

    @property
    def size_bytes(self) -> int:
        """Memory of all tensors: blocks, scales and extras."""
        tensors = (self.data, *(self.extras()[name] for name in self.extras() if name != "input_scale"))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @property
    def is_as_stored(self) -> bool:
        """Whether the numbers of the blocks equal those of the tensor: no rotation and no addition."""
        return not self.rotation and self.column_scale is None and self.low_rank is None

    def extras(self) -> dict[str, Tensor]:
        """Return all tensors except the blocks, by the names that `with_extras` takes."""
        found = {
            "scale": self.scale,
            "input_scale": self.input_scale,
            "column_scale": self.column_scale,
            "low_rank.down": self.low_rank.down if self.low_rank else None,
            "low_rank.up": self.low_rank.up if self.low_rank else None,
            **{f"groups.{name}": tensor for name, tensor in (self.groups.tensors() if self.groups else {}).items()},
        }
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def with_extras(self, data: Tensor, extras: Mapping[str, Tensor]) -> PackedTensor:
        """Return a copy with other blocks, and other tensors of the same names."""
        direct: dict[str, Any] = {name: tensor for name, tensor in extras.items() if "." not in name}
        of_groups = {name.removeprefix("groups."): extras[name] for name in extras if name.startswith("groups.")}
        groups = self.groups.with_tensors(of_groups) if self.groups else None
        low_rank = LowRank(down=extras["low_rank.down"], up=extras["low_rank.up"]) if self.low_rank else None
        return attrs.evolve(self, data=data, groups=groups, low_rank=low_rank, **direct)

    def to(self, device: str | torch.device) -> PackedTensor:
        """Return a copy on a device."""
        extras = {name: tensor.to(device) for name, tensor in self.extras().items()}
        return self.with_extras(self.data.to(device), extras)

    def take(self, index: slice | Tensor) -> PackedTensor:
        """Return some rows of a matrix; `index` is a slice or int64 [n]."""
        data = self.data[index]
        scale = self.scale if self.scale is None or self.scale.ndim == 0 else self.scale[index]
        low_rank = self.low_rank and attrs.evolve(self.low_rank, up=self.low_rank.up[index])
        groups = self.groups and self.groups.take(index)
        shape = (len(data), *self.shape[1:])
        return attrs.evolve(self, data=data, shape=shape, scale=scale, groups=groups, low_rank=low_rank)

    def write(self, out: Tensor, kernel: Kernel | GroupedKernel | None = None) -> None:
        """Write the numbers of the blocks to contiguous `out` [rows, columns], rounded to its dtype.

        `kernel`, from `kernel_for` or `grouped_kernel`, is compiled code for speed.
        """
        from mold_core.weights.grouped_kernel import GroupedKernel

        groups, compiled = self.groups or Groups(), None if isinstance(kernel, GroupedKernel) else kernel
        if isinstance(kernel, GroupedKernel) and kernel.fits(out, self.type, groups):
            kernel.write(out, self.data.contiguous(), self.type, groups, self.scale)
        elif self.groups is None:
            dequantize_into(out, self.data, self.type, self.scale, compiled)
        else:
            tensors = self.groups.tensors()
            write_grouped(out, self.data, self.type, self.scale, rounded=self.groups.rounded, **tensors)

    def expand(self, dtype: torch.dtype = torch.float32, kernel: Kernel | GroupedKernel | None = None) -> Tensor:
        """Return the dequantized tensor of `shape`, rounded to `dtype`, on the device of the blocks."""
        out = torch.empty((len(self.data), self.columns), dtype=dtype, device=self.data.device)
        if self.is_as_stored:
            self.write(out, kernel)
            return out.view(self.shape)
        step = max(1, _ROTATED_NUMBERS // max(1, self.columns))
        for first in range(0, len(out), step):
            rows = slice(first, first + step)
            out[rows].copy_(self.take(rows)._restored(kernel))
        return out.view(self.shape)

    def _restored(self, kernel: Kernel | GroupedKernel | None) -> Tensor:
        """Return the numbers in float32, rotated back, with column scale and low-rank addition."""
        numbers = torch.empty((len(self.data), self.columns), device=self.data.device)
        self.write(numbers, kernel)
        if self.rotation:
            numbers = rotated(numbers, self.rotation)
        if self.column_scale is not None:
            numbers = numbers * self.column_scale
        if self.low_rank is not None:
            numbers = numbers + self.low_rank.up.float() @ self.low_rank.down.float()
        return numbers

    def chunk(self, count: int) -> tuple[PackedTensor, ...]:
        """Return `count` equal parts along the first dimension."""
        rows = len(self.data) // count
        shape = (self.shape[0] // count, *self.shape[1:])
        starts = range(0, rows * count, rows)
        return tuple(attrs.evolve(self.take(slice(first, first + rows)), shape=shape) for first in starts)


def concatenate(parts: Sequence[Tensor | PackedTensor]) -> Tensor | PackedTensor:
    """Return tensors joined along the first dimension. Quantised tensors of one type stay quantised.

    Raises CheckpointError for quantised tensors of different types, or mixed with others.
    """
    dense = [part for part in parts if isinstance(part, Tensor)]
    packed = [part for part in parts if isinstance(part, PackedTensor)]
    if not packed:
        return torch.cat(dense)
    if dense or len({(part.type, part.shape[1:], part.rotation, _kinds(part)) for part in packed}) > 1:
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
        groups=_joined_groups([part.groups for part in packed if part.groups], [len(part.data) for part in packed]),
        rotation=packed[0].rotation,
        column_scale=_same_column_scale(packed),
        low_rank=_joined_low_rank([part.low_rank for part in packed if part.low_rank]),
    )


def _kinds(part: PackedTensor) -> tuple[object, ...]:
    """Return the properties that joined tensors must share: which extras they have, and their dtypes."""
    extras = {name: tensor.dtype for name, tensor in part.extras().items() if "." in name or name == "column_scale"}
    return (tuple(extras.items()), part.groups.rounded if part.groups else None)


def _joined_groups(groups: Sequence[Groups], rows: Sequence[int]) -> Groups | None:
    if not groups:
        return None
    joined = {}
    for name in groups[0].tensors():
        tensors = [one.tensors()[name] for one in groups]
        if name == "levels":
            if all(torch.equal(tensor, tensors[0]) for tensor in tensors):
                joined[name] = tensors[0]
                continue
            tensors = [tensor.expand(count, -1) for tensor, count in zip(tensors, rows, strict=True)]
        joined[name] = _cat(tensors)
    return groups[0].with_tensors(joined)


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    """Join tensors of any dtype. Not every device can join fp8."""
    if tensors[0].element_size() > 1:
        return torch.cat(list(tensors))
    return torch.cat([tensor.view(torch.uint8) for tensor in tensors]).view(tensors[0].dtype)


def _same_column_scale(parts: Sequence[PackedTensor]) -> Tensor | None:
    first = parts[0].column_scale
    for part in parts:
        if first is not None and part.column_scale is not None and not torch.equal(first, part.column_scale):
            raise CheckpointError("parts of one layer have different scales for their inputs")
    return first


def _joined_low_rank(matrices: Sequence[LowRank]) -> LowRank | None:
    if not matrices:
        return None
    up = torch.zeros(sum(len(one.up) for one in matrices), sum(len(one.down) for one in matrices))
    row = column = 0
    for one in matrices:
        up[row : row + len(one.up), column : column + len(one.down)] = one.up
        row, column = row + len(one.up), column + len(one.down)
    return LowRank(down=torch.cat([one.down for one in matrices]), up=up.to(matrices[0].up))


def _largest_input_scale(parts: Sequence[PackedTensor]) -> Tensor | None:
    """Return an input scale with which no input overflows; None if one of the tensors has none."""
    found = [part.input_scale for part in parts if part.input_scale is not None]
    return torch.stack(found).amax() if len(found) == len(parts) else None


def _row_scale(part: PackedTensor) -> Tensor:
    scale = torch.ones(()) if part.scale is None else part.scale
    return scale.to(part.data.device).expand(len(part.data), 1)


class Scratch:
    """Memory that layers share, one after the other, to dequantize their weights into: at most `numbers` numbers.

    It grows to the size needed and is reused: new memory for every layer costs more than dequantizing. The layers must
    be used by one thread at a time.
    """

    def __init__(self, numbers: int = _SCRATCH_NUMBERS) -> None:
        self.numbers = numbers
        self._memory: Tensor | None = None

    def rows(self, count: int, columns: int, like: Tensor) -> Tensor:
        """Return memory [rows, columns] of the dtype and on the device of `like`; fewer rows if they do not fit."""
        rows = min(count, max(1, self.numbers // max(1, columns)))
        memory = self._memory
        if (
            memory is None
            or memory.numel() < rows * columns
            or (memory.dtype, memory.device) != (like.dtype, like.device)
        ):
            self._memory = None  # freed before the next allocation
            with torch.inference_mode(False):  # tensors created in inference mode cannot be written to outside of it
                memory = self._memory = torch.empty(rows * columns, dtype=like.dtype, device=like.device)
        return memory[: rows * columns].view(rows, columns)
