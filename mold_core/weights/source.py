"""Tensors of a weight file, described by its header and read on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from mold_core.weights.mapping import MappedFile
from mold_core.weights.types import StoredType

if TYPE_CHECKING:
    from torch import Tensor

    from mold_core.weights.packed import PackedTensor

__all__ = ["TensorSource", "WeightFile", "shown"]


@attrs.frozen(kw_only=True, eq=False)
class TensorSource:
    """A tensor of a file, described by the header. `read` returns its values.

    `shape` is in torch's order. `stored_columns` is the length of the rows of blocks, if it is not the last of `shape`.
    `buffer` is the whole file, a MappedFile or any buffer; the tensor is the `size_bytes` from `offset` on.
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

        Writes to it stay in this process and never reach the file.
        """
        import torch

        from mold_core.weights.packed import PackedTensor

        if self.size_bytes and isinstance(self.buffer, MappedFile):
            raw = self.buffer.tensor(self.offset, self.size_bytes)
        elif self.size_bytes:
            raw = torch.frombuffer(self.buffer, dtype=torch.uint8, count=self.size_bytes, offset=self.offset)
        else:
            raw = torch.empty(0, dtype=torch.uint8)
        if self.type.quantised:
            columns = self.stored_columns or (self.shape[-1] if self.shape else 1)
            rows = raw.view(-1, self.type.size_bytes(columns)) if columns else raw.view(0, 0)
            return PackedTensor(data=rows, type=self.type, shape=self.shape)
        dtype = getattr(torch, self.type.torch_dtype or "")
        if self.offset % self.type.block_bytes:  # torch requires offsets that are multiples of the number's size
            raw = raw.clone()
        return raw.view(dtype).view(self.shape)


@attrs.frozen(kw_only=True, eq=False)
class WeightFile(Mapping[str, TensorSource]):
    """An open weight file: its tensors by name, in the file's order, and the metadata of its header.

    `metadata` has numbers, booleans and strings, but no lists.
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


def shown(name: str) -> str:
    """Return a name from a file for an error message: quoted, and no longer than a line."""
    return repr(name if len(name) <= 80 else f"{name[:79]}…")
