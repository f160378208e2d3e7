"""Open weight files of any format as tensors by name. The content decides the format, never the file name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mold_core.errors import CheckpointError
from mold_core.weights.gguf_files import GGUF
from mold_core.weights.safetensors_files import SAFETENSORS
from mold_core.weights.shards import shards_of
from mold_core.weights.source import TensorSource, WeightFile, shown

if TYPE_CHECKING:
    from torch import Tensor

    from mold_core.weights.packed import PackedTensor

__all__ = ["BUILT_IN", "open_weights", "read_weights"]


class WeightFormat(Protocol):
    """A reader of one file format; `mold_core.hookspecs.WeightLoader` describes it for plugins."""

    def recognises(self, path: Path, head: bytes) -> bool:
        """Return whether the file has this format, judging by its first 64 bytes."""

    def open(self, path: Path) -> Mapping[str, TensorSource]:
        """Return the tensors by name."""


BUILT_IN: tuple[WeightFormat, ...] = (GGUF, SAFETENSORS)


def open_weights(path: Path, loaders: Iterable[WeightFormat] = ()) -> Mapping[str, TensorSource]:
    """Return the tensors of a weight file by name. The header has shapes, types and sizes; values are read on demand.

    A shard, an index of shards or a folder opens all of its shards. mold's own readers, for safetensors and GGUF, come
    before `loaders`. Raises CheckpointError naming the path for a file that is unreadable, damaged, or of another
    format; files of pickled objects, which can run code, are never read.
    """
    path, loaders = Path(path), tuple(loaders)
    shards = shards_of(path)
    if len(shards) == 1:
        return _open(shards[0], loaders)
    tensors: dict[str, TensorSource] = {}
    metadata: dict[str, str | int | float | bool] = {}
    for shard in shards:
        opened = _open(shard, loaders)
        for name, source in opened.items():
            if name in tensors:
                raise CheckpointError("%s: %s is in another shard too", shard, shown(name))
            tensors[name] = source
        metadata = {**getattr(opened, "metadata", {}), **metadata}
    return WeightFile(path=path, format="shards", tensors=tensors, metadata=metadata)


def _open(path: Path, loaders: tuple[WeightFormat, ...]) -> Mapping[str, TensorSource]:
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError("%s: the file cannot be read: %s", path, error) from None
    for loader in (*BUILT_IN, *loaders):
        if loader.recognises(path, head):
            return loader.open(path)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        raise CheckpointError(
            "%s: this is a pickle file (.pt, .pth, .ckpt, .bin), which can run code when it is loaded;"
            " mold reads safetensors and GGUF files only",
            path,
            hint="mold convert FILE writes its tensors into a safetensors file, without running it",
        )
    raise CheckpointError(
        "%s: %s", path, "this is neither a safetensors nor a GGUF file" if head else "the file is empty"
    )


def read_weights(path: Path, loaders: Iterable[WeightFormat] = ()) -> dict[str, Tensor | PackedTensor]:
    """Return all tensors of a file by name, sharing the memory of the mapped file.

    Quantised tensors are PackedTensors. Tensors that belong to a quantised weight, such as its scale, become part of
    it; markers are left out. Raises CheckpointError as `open_weights` does, and for a weight that is incomplete or
    has a format that mold does not read.
    """
    from mold_core.weights.quantised_layers import pack_layers

    file = open_weights(path, loaders)
    tensors = {name: source.read() for name, source in file.items()}
    try:
        return pack_layers(tensors, getattr(file, "metadata", {}))
    except CheckpointError as error:
        raise CheckpointError("%s: %s", path, error, hint=error.hint) from None
