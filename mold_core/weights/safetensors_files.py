"""safetensors files: their headers, read without any library. No tensor is touched.

The layout (https://github.com/huggingface/safetensors#format): the length of the header as 8 little-endian bytes, a
JSON object of that length with type, shape and place of each tensor, then the data without gaps.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from mold_core.errors import CheckpointError
from mold_core.weights.source import TensorSource, WeightFile, map_file, shown
from mold_core.weights.types import SAFETENSORS_TYPES

__all__ = ["SAFETENSORS", "SafetensorsFiles"]

_LONGEST_HEADER = 100_000_000  # the format's own limit
_MOST_DIMS = 16


class SafetensorsFiles:
    """The format safetensors."""

    name = "safetensors"

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether the file starts with a length and the opening of a JSON object."""
        return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_HEADER

    def open(self, path: Path) -> WeightFile:
        """Return the tensors by name. Raises CheckpointError, naming path and culprit, for a damaged header."""
        buffer = map_file(path)
        try:
            return _read(path, buffer)
        except CheckpointError as error:
            raise CheckpointError("%s: this is not a whole safetensors file: %s", path, error) from None


SAFETENSORS = SafetensorsFiles()


def _read(path: Path, buffer: Any) -> WeightFile:
    if len(buffer) < 8:
        raise CheckpointError(f"it has only {len(buffer)} bytes")
    (length,) = struct.unpack_from("<Q", buffer)
    start = 8 + length
    if length > _LONGEST_HEADER or start > len(buffer):
        raise CheckpointError(f"its header is said to be {length} bytes long, the file has {len(buffer)}")
    try:
        header = json.loads(bytes(buffer[8:start]), object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError):
        raise CheckpointError("its header is no JSON") from None
    if not isinstance(header, dict):
        raise CheckpointError("its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError("its metadata is not a table of texts")
    sources = [_source(buffer, start, name, entry) for name, entry in header.items()]
    end = start
    for source in sorted(sources, key=lambda source: (source.offset, source.size_bytes)):
        if source.offset != end:
            raise CheckpointError(f"tensor {shown(source.name)} does not follow the one before it")
        end += source.size_bytes
    if end != len(buffer):
        raise CheckpointError(f"its tensors end at byte {end}, the file has {len(buffer)}")
    tensors = {source.name: source for source in sources}
    return WeightFile(path=path, format="safetensors", tensors=tensors, metadata=metadata)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise CheckpointError("its header says something twice")
    return table


def _source(buffer: Any, start: int, name: str, entry: Any) -> TensorSource:
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise CheckpointError(f"tensor {shown(name)} lacks type, shape or place")
    if kind not in SAFETENSORS_TYPES:
        known = ", ".join(SAFETENSORS_TYPES)
        raise CheckpointError(
            f"tensor {shown(name)} is stored as {kind[:32]!r}, which mold cannot read (it can: {known})"
        )
    if len(shape) > _MOST_DIMS or not all(type(dim) is int and 0 <= dim < 2**48 for dim in shape):
        raise CheckpointError(f"tensor {shown(name)} has no possible shape")
    type_ = SAFETENSORS_TYPES[kind]
    size_bytes = type_.size_bytes(math.prod(shape))
    if not 0 <= begin <= end <= len(buffer) - start or end - begin != size_bytes:
        raise CheckpointError(f"tensor {shown(name)} of type {kind} and shape {shape} is not at bytes {begin} to {end}")
    return TensorSource(
        name=name, shape=tuple(shape), type=type_, size_bytes=size_bytes, offset=start + begin, buffer=buffer
    )
