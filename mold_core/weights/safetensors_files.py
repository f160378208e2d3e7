"""A bounded reader of the headers of safetensors files, without any library. It reads no tensor data.

The layout (https://github.com/huggingface/safetensors#format): the length of the header as 8 little-endian bytes, a
JSON object of that length with type, shape and offsets of each tensor, then the data without gaps.

Headers are untrusted. A header's size is checked before it is read, and it is parsed entry by entry, so that memory is
used for tensors only and not for other JSON.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Iterator
from json.decoder import scanstring  # type: ignore[attr-defined]  # the stubs leave it out
from pathlib import Path
from typing import Any, TypeVar

from mold_core.errors import CheckpointError
from mold_core.weights.mapping import MappedFile
from mold_core.weights.source import TensorSource, WeightFile, shown
from mold_core.weights.types import SAFETENSORS_TYPES

__all__ = ["SAFETENSORS", "SafetensorsFiles", "read_safetensors_header"]

T = TypeVar("T")

_FORMAT_LIMIT = 100_000_000  # bytes of a header
_LONGEST_HEADER = 2**24  # of files in use: the largest models have less than 4 MB
_MOST_ENTRIES = 65_536  # of tensors and of metadata, each; published models have a few thousand
_LONGEST_ENTRY = 2048  # characters of a tensor's type, shape and offsets
_MOST_DIMS = 16
_SPACE = re.compile(r"[ \t\n\r]*")


class SafetensorsFiles:
    """The format safetensors."""

    name = "safetensors"

    def recognises(self, path: Path, head: bytes) -> bool:
        """Return whether the file starts with a length and the start of a JSON object."""
        return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _FORMAT_LIMIT

    def open(self, path: Path) -> WeightFile:
        """Return the tensors by name. Raises CheckpointError, naming path and culprit, for a damaged header."""
        file = MappedFile(path)
        try:
            return _read(file)
        except CheckpointError as error:
            raise CheckpointError("%s: this is not a complete safetensors file: %s", path, error) from None


SAFETENSORS = SafetensorsFiles()


def read_safetensors_header(path: Path) -> tuple[dict[str, Any], dict[str, str], int]:
    """Return the entries of a header by tensor name, its metadata, and where the data starts.

    The entries are unchecked JSON values; their types may be unknown to mold. Raises CheckpointError,
    naming the path, for a damaged header.
    """
    file = MappedFile(path)
    try:
        start = 8 + _header_length(file)
        entries, metadata = _entries(file, start, lambda _name, entry: entry)
        return entries, metadata, start
    except CheckpointError as error:
        raise CheckpointError("%s: this is not a complete safetensors file: %s", path, error) from None


def _entries(file: MappedFile, start: int, read: Callable[[str, Any], T]) -> tuple[dict[str, T], dict[str, str]]:
    """Return the result of `read` for each entry of a header, by tensor name, and the metadata."""
    tensors: dict[str, T] = {}
    metadata: dict[str, str] | None = None
    header = _Header(file.head(start)[8:])
    for name in header.members():
        if name == "__metadata__":
            if metadata is not None:
                raise _twice()
            metadata = _metadata(header)
            continue
        entry = header.value()
        if name in tensors:
            raise _twice()
        if len(tensors) == _MOST_ENTRIES:
            raise CheckpointError(f"its header lists more than {_MOST_ENTRIES} tensors")
        tensors[name] = read(name, entry)
    header.end()
    return tensors, metadata or {}


def _read(file: MappedFile) -> WeightFile:
    start = 8 + _header_length(file)
    tensors, metadata = _entries(file, start, lambda name, entry: _source(file, start, name, entry))
    end = start
    for source in sorted(tensors.values(), key=lambda source: (source.offset, source.size_bytes)):
        if source.offset != end:
            raise CheckpointError(f"tensor {shown(source.name)} does not follow the one before it")
        end += source.size_bytes
    if end != len(file):
        raise CheckpointError(f"its tensors end at byte {end}, the file has {len(file)}")
    return WeightFile(path=file.path, format="safetensors", tensors=tensors, metadata=metadata)


def _header_length(file: MappedFile) -> int:
    if len(file) < 8:
        raise CheckpointError(f"it has only {len(file)} bytes")
    (length,) = struct.unpack("<Q", file.head(8))
    if length > _FORMAT_LIMIT or 8 + length > len(file):
        raise CheckpointError(f"its header claims {length} bytes, and the file has {len(file)}")
    if length > _LONGEST_HEADER:
        raise CheckpointError(f"its header is {length} bytes long, and mold reads up to {_LONGEST_HEADER}")
    return int(length)


class _Header:
    """The JSON of a header, parsed from left to right. Raises CheckpointError for invalid JSON."""

    def __init__(self, header: bytes) -> None:
        try:
            self._text = header.decode("utf-8")
        except UnicodeDecodeError:
            raise _no_json() from None
        self._at = 0

    def members(self) -> Iterator[str]:
        """Yield the names in an object. The value of each must be read before the next name."""
        if self._mark() != "{":
            raise _no_json()
        if self._peek() == "}":
            self._at += 1
            return
        while True:
            yield self._name()
            mark = self._mark()
            if mark == "}":
                return
            if mark != ",":
                raise _no_json()

    def value(self) -> Any:
        """Return a value of at most `_LONGEST_ENTRY` characters."""
        self._peek()
        window = self._text[self._at : self._at + _LONGEST_ENTRY]
        try:
            value, length = _DECODER.raw_decode(window)
        except (ValueError, RecursionError):
            raise _no_json() from None
        self._at += length
        return value

    def text(self) -> str:
        """Return a string."""
        if self._mark() != '"':
            raise _no_json()
        try:
            text, self._at = scanstring(self._text, self._at)
        except ValueError:
            raise _no_json() from None
        return str(text)

    def starts(self, mark: str) -> bool:
        """Return whether the next value starts with a character."""
        return self._peek() == mark

    def end(self) -> None:
        """Check that only whitespace follows."""
        if self._peek():
            raise _no_json()

    def _name(self) -> str:
        name = self.text()
        if self._mark() != ":":
            raise _no_json()
        return name

    def _peek(self) -> str:
        space = _SPACE.match(self._text, self._at)
        assert space is not None  # the pattern also matches an empty string
        self._at = space.end()
        return self._text[self._at : self._at + 1]

    def _mark(self) -> str:
        mark = self._peek()
        self._at += len(mark)
        return mark


def _metadata(header: _Header) -> dict[str, str]:
    if not header.starts("{"):
        raise _no_texts()
    metadata: dict[str, str] = {}
    for key in header.members():
        if not header.starts('"'):
            raise _no_texts()
        value = header.text()
        if key in metadata:
            raise _twice()
        if len(metadata) == _MOST_ENTRIES:
            raise CheckpointError(f"its metadata has more than {_MOST_ENTRIES} entries")
        metadata[key] = value
    return metadata


def _no_json() -> CheckpointError:
    return CheckpointError("its header is not a JSON object of tensors")


def _no_texts() -> CheckpointError:
    return CheckpointError("its metadata is not a map of strings")


def _twice() -> CheckpointError:
    return CheckpointError("its header has duplicate keys")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise _twice()
    return table


_DECODER = json.JSONDecoder(object_pairs_hook=_without_doubles)


def _source(file: MappedFile, start: int, name: str, entry: Any) -> TensorSource:
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise CheckpointError(f"tensor {shown(name)} lacks dtype, shape or offsets")
    if kind not in SAFETENSORS_TYPES:
        known = ", ".join(SAFETENSORS_TYPES)
        raise CheckpointError(
            f"tensor {shown(name)} is stored as {kind[:32]!r}, which mold cannot read (supported: {known})"
        )
    if len(shape) > _MOST_DIMS or not all(type(dim) is int and 0 <= dim < 2**48 for dim in shape):
        raise CheckpointError(f"tensor {shown(name)} has an invalid shape")
    type_ = SAFETENSORS_TYPES[kind]
    size_bytes = type_.size_bytes(math.prod(shape))
    if not 0 <= begin <= end <= len(file) - start or end - begin != size_bytes:
        raise CheckpointError(f"tensor {shown(name)} of type {kind} and shape {shape} is not at bytes {begin} to {end}")
    return TensorSource(
        name=name, shape=tuple(shape), type=type_, size_bytes=size_bytes, offset=start + begin, buffer=file
    )
