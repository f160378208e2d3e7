"""A bounded reader of the headers of GGUF files. It reads no tensor data.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian: magic,
version, counts; metadata as key, type, value; for each tensor name, dimensions (fastest first), type, offset; then, at
the next multiple of the alignment, the data. ComfyUI's files record the shapes of tensors that had to be flattened.

Every count and length is checked against the rest of the file before it is used, arrays of numbers are skipped, and no
allocation depends on a size that a header claims.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

from mold_core.errors import CheckpointError
from mold_core.weights.mapping import MappedFile, map_read_only
from mold_core.weights.source import TensorSource, WeightFile, shown
from mold_core.weights.types import GGUF_TYPES, StoredType

__all__ = ["GGUF", "GgufFiles", "read_gguf_header"]

_LONGEST_HEADER = 2**28  # bytes; 250,000 tokens with their merges take about 20 MB
_MOST_ENTRIES = 65_536  # of metadata and of tensors, each; published models have a few thousand
_MOST_STRINGS = 2_000_000  # in arrays; a tokenizer's vocabulary is one
_LONGEST_NAME = 1024
_LONGEST_TEXT = 2**24  # bytes; some files contain a whole tokenizer.json
_MOST_KEPT = 2**22  # bytes of text that stay in memory, such as chat templates; the rest is left out
_MOST_DIMS = 4
_ALIGNMENTS = tuple(2**power for power in range(3, 21))
_SHAPE_NOTE = "comfy.gguf.orig_shape."

# Types of metadata values: struct's letters by number. 8 is text, 9 an array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9

# Numbers of types that mold cannot dequantize, to name them in errors.
_FOREIGN = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S",
    29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip


class GgufFiles:
    """The format GGUF."""

    name = "gguf"

    def recognises(self, path: Path, head: bytes) -> bool:
        """Return whether the file starts with GGUF's magic bytes."""
        return head.startswith(b"GGUF")

    def open(self, path: Path) -> WeightFile:
        """Return the tensors by name. Raises CheckpointError, naming path and culprit, for a damaged header."""
        file = MappedFile(path)
        try:
            with map_read_only(path, _LONGEST_HEADER) as header:
                return _read(file, header)
        except CheckpointError as error:
            raise CheckpointError("%s: %s", path, error) from None


GGUF = GgufFiles()


class _Cursor:
    """A position in a buffer. Reading a value advances it, never past the end."""

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer
        self.size = len(buffer)
        self.at = 0

    def skip(self, count: int) -> int:
        """Advance by `count` bytes. Return where they start."""
        start = self.at
        if count > self.size - start:
            raise CheckpointError(f"the GGUF header is cut short: {count} bytes are expected after byte {start}")
        self.at = start + count
        return start

    def number(self, letter: str) -> Any:
        """Return a little-endian number; `letter` is its type in struct's notation."""
        form = f"<{letter}"
        return struct.unpack_from(form, self.buffer, self.skip(struct.calcsize(form)))[0]

    def count(self, what: str, most: int) -> int:
        """Return a 64-bit number that must not be larger than `most`."""
        value: int = self.number("Q")
        if value > most:
            raise CheckpointError(f"the GGUF header is damaged: it claims {value} {what}, more than {most}")
        return value

    def text(self, what: str, most: int) -> str:
        """Return a length-prefixed string of at most `most` bytes."""
        length = self.count(f"bytes of {what}", most)
        start = self.skip(length)
        try:
            return bytes(self.buffer[start : self.at]).decode("utf-8")
        except UnicodeDecodeError:
            raise CheckpointError(f"the GGUF header is damaged: a {what} at byte {start} is not UTF-8") from None


def read_gguf_header(path: Path) -> tuple[list[tuple[str, tuple[int, ...], str, int]], dict[str, Any]]:
    """Return name, shape, type and bytes of every tensor, and the metadata, including types that mold cannot load.

    Bytes are 0 for an unknown type. Raises CheckpointError, naming the path, for a damaged header.
    """
    try:
        with map_read_only(path, _LONGEST_HEADER) as header:
            infos, metadata, shapes, _ = _contents(header)
    except CheckpointError as error:
        raise CheckpointError("%s: %s", path, error) from None
    return [(name, shapes.get(name, dims), *_stored(number, dims)) for name, dims, number, _ in infos], metadata


def _stored(number: int, dims: tuple[int, ...]) -> tuple[str, int]:
    type_ = GGUF_TYPES.get(number)
    return (type_.name, type_.size_bytes(math.prod(dims))) if type_ else (_FOREIGN.get(number, f"type {number}"), 0)


# Name, dimensions in torch's order, type number, offset from the start of the data.
_Info = tuple[str, tuple[int, ...], int, int]


def _contents(header: Any) -> tuple[list[_Info], dict[str, Any], dict[str, tuple[int, ...]], int]:
    """Return the tensors, the metadata, the recorded shapes, and where the data starts."""
    cursor = _Cursor(header)
    cursor.skip(4)  # the magic bytes
    version = cursor.number("I")
    if version not in (2, 3):
        kind = "of a big-endian machine" if version and not version & 0xFFFF else f"of version {version}"
        raise CheckpointError(f"this GGUF file is {kind}; mold reads versions 2 and 3, little-endian")
    tensor_count = cursor.count("tensors", _MOST_ENTRIES)
    metadata, shapes = _metadata(cursor, cursor.count("metadata entries", _MOST_ENTRIES))
    alignment = metadata.get("general.alignment", 32)
    if alignment not in _ALIGNMENTS:
        raise CheckpointError(f"the GGUF header is damaged: its alignment is {alignment!r}")
    infos = [_tensor_info(cursor) for _ in range(tensor_count)]
    return infos, metadata, shapes, -(-cursor.at // alignment) * alignment


def _read(file: MappedFile, header: Any) -> WeightFile:
    infos, metadata, shapes, start = _contents(header)
    alignment = metadata.get("general.alignment", 32)
    tensors: dict[str, TensorSource] = {}
    for name, dims, number, offset in infos:
        if name in tensors:
            raise CheckpointError(f"the GGUF header is damaged: duplicate tensor {shown(name)}")
        tensors[name] = _source(file, name, dims, _type(name, number), start, offset, alignment, shapes.get(name))
    _refuse_overlaps(tensors)
    return WeightFile(path=file.path, format="gguf", tensors=tensors, metadata=metadata)


def _metadata(cursor: _Cursor, count: int) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Return scalars and texts by key, and the recorded shapes by tensor name."""
    metadata: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    keys: set[str] = set()
    strings_left, kept_left = _MOST_STRINGS, _MOST_KEPT
    for _ in range(count):
        key = cursor.text("metadata key", _LONGEST_NAME)
        if key in keys:
            raise CheckpointError(f"the GGUF header is damaged: duplicate metadata entry {shown(key)}")
        keys.add(key)
        kind = cursor.number("I")
        if kind == _ARRAY:
            item, length = cursor.number("I"), cursor.number("Q")
            if key.startswith(_SHAPE_NOTE) and item in (4, 5, 10, 11) and length <= 8:
                shapes[key.removeprefix(_SHAPE_NOTE)] = tuple(cursor.number(_SCALARS[item]) for _ in range(length))
            else:
                strings_left -= _skip_array(cursor, key, item, length, strings_left)
        elif kind == _TEXT:
            text = _text(cursor, key, kept_left)
            if text is not None:
                metadata[key] = text
                kept_left -= len(text)
        else:
            metadata[key] = cursor.number(_scalar(key, kind))
    return metadata, shapes


def _text(cursor: _Cursor, key: str, most: int) -> str | None:
    """Return a text of the metadata, or skip it and return None if it has more than `most` bytes."""
    what, start = f"metadata value ({shown(key)})", cursor.at
    length = cursor.count(f"bytes of {what}", _LONGEST_TEXT)
    if length > most:
        cursor.skip(length)
        return None
    cursor.at = start
    return cursor.text(what, most)


def _scalar(key: str, kind: int) -> str:
    if kind not in _SCALARS:
        raise CheckpointError(f"the GGUF header is damaged: metadata {shown(key)} is of unknown type {kind}")
    return _SCALARS[kind]


def _skip_array(cursor: _Cursor, key: str, item: int, length: int, strings_left: int) -> int:
    """Skip an array. Return how many strings it has."""
    if item != _TEXT:
        cursor.skip(length * struct.calcsize(f"<{_scalar(key, item)}"))  # arrays of arrays are not used
        return 0
    if length > min(strings_left, (cursor.size - cursor.at) // 8):
        raise CheckpointError(f"the GGUF header is damaged: metadata {shown(key)} claims {length} strings")
    # PERF: a vocabulary of 150,000 strings takes 20 ms; gguf-py takes seconds.
    unpack, buffer, at, last = struct.Struct("<Q").unpack_from, cursor.buffer, cursor.at, cursor.size - 8
    for _ in range(length):
        if at > last:
            raise CheckpointError(f"the GGUF header is cut short in metadata {shown(key)}")
        at += 8 + unpack(buffer, at)[0]
    cursor.skip(at - cursor.at)
    return length


def _tensor_info(cursor: _Cursor) -> _Info:
    """Return the next tensor of the header."""
    name = cursor.text("tensor name", _LONGEST_NAME)
    rank = cursor.number("I")
    if rank > _MOST_DIMS:
        raise CheckpointError(f"the GGUF header is damaged: tensor {shown(name)} has {rank} dimensions")
    dims = tuple(cursor.number("Q") for _ in range(rank))[::-1]
    return name, dims, cursor.number("I"), cursor.number("Q")


def _type(name: str, number: int) -> StoredType:
    if number not in GGUF_TYPES:
        kind = _FOREIGN.get(number, f"unknown type {number}")
        known = ", ".join(sorted(type_.name for type_ in GGUF_TYPES.values()))
        raise CheckpointError(
            f"tensor {shown(name)} is stored as {kind}, which mold cannot dequantize (supported: {known})"
        )
    return GGUF_TYPES[number]


def _source(
    file: MappedFile,
    name: str,
    dims: tuple[int, ...],
    type_: StoredType,
    start: int,
    offset: int,
    alignment: int,
    noted_shape: tuple[int, ...] | None,
) -> TensorSource:
    columns = dims[-1] if dims else 1
    numbers = math.prod(dims)
    if not numbers or columns % type_.block_size:
        raise CheckpointError(f"tensor {shown(name)} of shape {list(dims)} cannot be stored as {type_.name}")
    size_bytes = type_.size_bytes(numbers)
    if offset % alignment:
        raise CheckpointError(
            f"tensor {shown(name)} is not aligned: its offset {offset} is not a multiple of {alignment}"
        )
    if start + offset + size_bytes > len(file):
        raise CheckpointError(
            f"the file is cut short or damaged: tensor {shown(name)} needs bytes up to {start + offset + size_bytes},"
            f" the file has {len(file)}"
        )
    if noted_shape is not None and (min(noted_shape, default=1) < 1 or math.prod(noted_shape) != numbers):
        raise CheckpointError(
            f"tensor {shown(name)} of shape {list(dims)} cannot have the original shape {list(noted_shape)}"
        )
    return TensorSource(
        name=name,
        shape=dims if noted_shape is None else noted_shape,
        type=type_,
        size_bytes=size_bytes,
        offset=start + offset,
        buffer=file,
        stored_columns=columns,
    )


def _refuse_overlaps(tensors: dict[str, TensorSource]) -> None:
    end, before = 0, ""
    for source in sorted(tensors.values(), key=lambda source: source.offset):
        if source.offset < end:
            raise CheckpointError(
                f"the GGUF header is damaged: tensors {shown(before)} and {shown(source.name)} overlap"
            )
        end, before = source.offset + source.size_bytes, source.name
