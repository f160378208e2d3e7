"""A tensor in a weight file, known by its header and read when asked for; and the file that holds it."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from mold_core.errors import CheckpointError
from mold_core.weights.types import StoredType

if TYPE_CHECKING:
    from torch import Tensor

    from mold_core.weights.packed import PackedTensor

__all__ = ["TensorSource", "WeightFile", "map_file", "shown"]

# Linux' flag for mappings that are larger than memory and swap; Python names it only in some versions.
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0)


@attrs.frozen(kw_only=True, eq=False)
class TensorSource:
    """A tensor of a file. `read` gives its numbers; until then only the header was looked at.

    `shape` is in torch's order. `stored_columns` is the length of the rows that blocks are laid along, where that is
    not the last of `shape`. `buffer` is the whole file, of which the tensor takes `size_bytes` from `offset` on.
    """

    name: str
    shape: tuple[int, ...]
    type: StoredType
    size_bytes: int
    offset: int
    buffer: Any = attrs.field(repr=False)
    stored_columns: int | None = None

    def read(self) -> Tensor | PackedTensor:
        """Return the tensor, or a PackedTensor for a quantised type. Both share the memory of the mapped file.

        What is written to it stays in this process and never reaches the file.
        """
        import torch

        from mold_core.weights.packed import PackedTensor

        if self.size_bytes:
            raw = torch.frombuffer(self.buffer, dtype=torch.uint8, count=self.size_bytes, offset=self.offset)
        else:
            raw = torch.empty(0, dtype=torch.uint8)
        if self.type.quantised:
            columns = self.stored_columns or (self.shape[-1] if self.shape else 1)
            rows = raw.view(-1, self.type.size_bytes(columns)) if columns else raw.view(0, 0)
            return PackedTensor(data=rows, type=self.type, shape=self.shape)
        dtype = getattr(torch, self.type.torch_dtype or "")
        if self.offset % self.type.block_bytes:  # torch wants numbers at multiples of their size
            raw = raw.clone()
        return raw.view(dtype).view(self.shape)


@attrs.frozen(kw_only=True, eq=False)
class WeightFile(Mapping[str, TensorSource]):
    """An open weight file: its tensors by name, in the file's order, and what its header says besides.

    `metadata` holds numbers, truth values and texts; lists are left out.
    """

    path: Path
    format: str
    tensors: Mapping[str, TensorSource] = attrs.field(repr=False)
    metadata: Mapping[str, str | int | float | bool] = attrs.field(factory=dict, repr=False)

    def __getitem__(self, name: str) -> TensorSource:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def map_file(path: Path) -> mmap.mmap:
    """Return a file mapped into memory, copied on write. Raises CheckpointError for one that is empty or unreadable.

    PERF: no memory is reserved for the copies that are never made, so files larger than memory can be mapped.
    """
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise CheckpointError("%s: the file is empty", path)
            if _NORESERVE:
                return mmap.mmap(
                    file.fileno(), 0, flags=mmap.MAP_PRIVATE | _NORESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE
                )
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise CheckpointError("%s: the file cannot be read: %s", path, error) from None


def shown(name: str) -> str:
    """Return a name out of a file as an error can show it: quoted, and no longer than a line."""
    return repr(name if len(name) <= 80 else f"{name[:79]}…")
