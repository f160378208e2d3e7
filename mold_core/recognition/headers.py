"""Read the header of a weight file in any format: names, shapes and types of its tensors. No weights are read.

`mold_core.weights` refuses files that mold cannot load. Recognition must name those as well, so types are plain text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from mold_core.errors import CheckpointError
from mold_core.weights.gguf_files import read_gguf_header
from mold_core.weights.safetensors_files import read_safetensors_header

if TYPE_CHECKING:
    from mold_core.hookspecs import WeightLoader

__all__ = ["Entry", "Header", "read_header"]

# Longer metadata values, such as training captions, are left out.
_LONGEST_VALUE = 65_536
_MOST = 2**48  # of sizes and offsets in a file
_LONGEST_NOTE = 4096  # bytes of a tensor that contains JSON
_MARK = ".comfy_quant"


class Entry(NamedTuple):
    """A tensor of a file: its shape in torch's order, its type name in the file, and its size in bytes."""

    # PERF: a tuple is created three times as fast as an attrs value, and a search creates hundreds of thousands.

    shape: tuple[int, ...]
    type: str
    size_bytes: int


@attrs.frozen(kw_only=True)
class Header:
    """The header of a weight file. `quantisations` are formats that markers of single layers name."""

    path: Path
    format: str
    entries: Mapping[str, Entry]
    metadata: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    quantisations: tuple[str, ...] = ()


def read_header(path: Path, loaders: Iterable[WeightLoader] = ()) -> Header:
    """Return the header of a weight file: safetensors, GGUF, or a format of `loaders`, those of plugins.

    Raises CheckpointError for other files, such as those of pickled objects, and states what they are.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError("%s: the file cannot be read: %s", path, error) from None
    if head.startswith(b"GGUF"):
        return _gguf(path)
    if head[8:9] == b"{":
        return _safetensors(path)
    for loader in loaders:
        if loader.recognises(path, head):
            entries = {
                name: Entry(tuple(source.shape), source.type.name, source.size_bytes)
                for name, source in loader.open(path).items()
            }
            return Header(path=path, format=loader.name, entries=entries)
    raise CheckpointError("%s: %s", path, _foreign(head))


def _safetensors(path: Path) -> Header:
    table, metadata, start = read_safetensors_header(path)
    entries: dict[str, Entry] = {}
    notes: list[tuple[int, int]] = []
    for name, entry in table.items():
        try:
            begin, end = map(_whole, entry["data_offsets"])
            entries[name] = Entry(tuple(map(_whole, entry["shape"])), str(entry["dtype"]), end - begin)
            if name.endswith(_MARK):
                notes.append((start + begin, end - begin))
        except (KeyError, TypeError, ValueError):
            raise CheckpointError("%s: a tensor of its header lacks dtype, shape or offsets", path) from None
    return Header(
        path=path,
        format="safetensors",
        entries=entries,
        metadata={key: value for key, value in metadata.items() if len(value) <= _LONGEST_VALUE},
        quantisations=_noted(path, notes, metadata),
    )


def _whole(number: object) -> int:
    """Return a size or offset of a header. Raises TypeError or ValueError for invalid values."""
    if type(number) is not int:
        raise TypeError("a number of a header must be whole")
    if not 0 <= number < _MOST:
        raise ValueError("a number of a header must fit a file")
    return number


def _gguf(path: Path) -> Header:
    tensors, metadata = read_gguf_header(path)
    entries = {name: Entry(shape, type_, size_bytes) for name, shape, type_, size_bytes in tensors}
    return Header(path=path, format="gguf", entries=entries, metadata=metadata)


def _noted(path: Path, notes: list[tuple[int, int]], metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return the distinct formats in the markers of ComfyUI's files, in tensors of layers or in the metadata.

    The layers of a file have few formats, so the first and the last markers are enough.
    """
    found: dict[str, None] = {}
    try:
        with path.open("rb") as file:
            for offset, size_bytes in (*notes[:16], *notes[-16:]):
                if 0 < size_bytes <= _LONGEST_NOTE:
                    file.seek(offset)
                    found.update(dict.fromkeys(_format_of(file.read(size_bytes))))
    except OSError as error:
        raise CheckpointError("%s: the file cannot be read: %s", path, error) from None
    if not found and "_quantization_metadata" in metadata:
        layers = _json(metadata["_quantization_metadata"]).get("layers")
        values = layers.values() if isinstance(layers, dict) else ()
        found.update(dict.fromkeys(name for value in values for name in _format_of(value)))
    return tuple(found)


def _format_of(note: bytes | str | dict[str, Any]) -> tuple[str, ...]:
    """Return the format of a marker, with "convrot" for rotated weights; empty for any other marker."""
    table = note if isinstance(note, dict) else _json(note)
    name = table.get("format")
    if not isinstance(name, str):
        return ()
    return (f"{name[:40]} convrot" if table.get("convrot") else name[:40],)


def _json(text: object) -> dict[str, Any]:
    try:
        value = json.loads(text) if isinstance(text, bytes | str) else None
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _foreign(head: bytes) -> str:
    """Return what a file is if it is neither safetensors nor GGUF."""
    if not head:
        return "the file is empty"
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return (
            "this is a pickle file (.pt, .pth, .ckpt, .bin), which can run code when it is loaded;"
            " mold convert FILE writes its tensors into a safetensors file without running it"
        )
    if head.startswith(b"SQLite format 3\0"):
        return "this is a SQLite database, the format of Draw Things, which mold does not read"
    if head.startswith(b"7767517\n"):
        return "this is the description of an ncnn network, whose weights are in the .bin file beside it"
    if head.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer: the weights themselves were not downloaded"
    if head.startswith((b"\x08", b"\x0a")) and b"onnx" in head.lower():
        return "this is an ONNX file, which mold does not read"
    if head[:1] in (b"<", b"{"):
        return "this is text, not weights: perhaps a web page that was saved in place of a download"
    return "this is neither a safetensors nor a GGUF file"
