"""Recognise a weight file, a folder of shards or the folder of a whole model. Only headers are read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mold_core.errors import CheckpointError
from mold_core.recognition.headers import Header, read_header
from mold_core.recognition.known import Knowledge
from mold_core.recognition.networks import networks_of
from mold_core.recognition.recognised import Recognised

__all__ = ["SHARD", "recognise", "recognise_shards"]

# The formats that store all tensors in the file with the header.
_OWN_FORMATS = ("safetensors", "gguf")

# The number of a shard in the name of a file: model-00001-of-00003.safetensors.
SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)$")

# Informative entries of a header → their labels in `mold info`.
_METADATA = {
    "modelspec.title": "title",
    "modelspec.author": "author",
    "modelspec.license": "licence",
    "general.license": "licence",
    "license": "licence",
    "general.name": "title",
    "ss_base_model_version": "trained on",
    "modelspec.architecture": "architecture",
}


def recognise(path: Path, knowledge: Knowledge) -> Recognised:
    """Return what a weight file is. `problem` states why a file cannot be read; nothing is raised."""
    return _recognised((path,), knowledge)


def recognise_shards(paths: Iterable[Path], knowledge: Knowledge) -> Recognised:
    """Return what the weights in several files are, taken together."""
    return _recognised(tuple(paths), knowledge)


def _recognised(paths: tuple[Path, ...], knowledge: Knowledge) -> Recognised:
    names = tuple(map(str, paths))
    try:
        size_bytes = sum(path.stat().st_size for path in paths)
    except OSError as error:
        return Recognised(paths=names, size_bytes=0, problem=f"the file cannot be read: {error.strerror}")
    try:
        header = _joined([read_header(path, knowledge.loaders) for path in paths])
    except CheckpointError as error:
        problem = _ncnn(paths[0]) or str(error).removeprefix(f"{paths[0]}: ")
        return Recognised(paths=names, size_bytes=size_bytes, problem=problem)
    return Recognised(
        paths=names,
        size_bytes=size_bytes,
        container=header.format,
        networks=networks_of(header, knowledge),
        problem=_broken(header, paths, size_bytes),
        metadata=_described_by(header.metadata),
    )


def _joined(headers: list[Header]) -> Header:
    first, *rest = headers
    if not rest:
        return first
    entries = {name: entry for header in headers for name, entry in header.entries.items()}
    return Header(
        path=first.path,
        format=first.format,
        entries=entries,
        metadata=first.metadata,
        quantisations=tuple(dict.fromkeys(note for header in headers for note in header.quantisations)),
    )


def _broken(header: Header, paths: tuple[Path, ...], size_bytes: int) -> str | None:
    """Return why a file is incomplete according to its header, or None."""
    shard = SHARD.match(paths[0].name)
    if shard and len(paths) < int(shard["count"]):
        return f"{int(shard['count']) - len(paths)} of its {int(shard['count'])} shards are missing"
    if header.format not in _OWN_FORMATS:  # a plugin's reader checks its files itself, and there may be several
        return None
    promised = sum(entry.size_bytes for entry in header.entries.values())
    return f"the file is cut short: {promised - size_bytes:,} bytes are missing" if promised > size_bytes else None


def _described_by(metadata: Any) -> dict[str, Any]:
    found = {}
    for key, name in _METADATA.items():
        value = metadata.get(key)
        if isinstance(value, str) and value.strip() and name not in found:
            found[name] = value.strip()[:200]
    return found


def _ncnn(path: Path) -> str | None:
    """Return what an ncnn network is, by its description and its weight file."""
    if path.suffix.lower() not in (".param", ".bin") or not _starts(path.with_suffix(".param"), b"7767517"):
        return None
    weights = path.with_suffix(".bin")
    if weights.is_file():
        return "an ncnn network, which no installed plugin reads"
    return f"an ncnn network whose weights, {weights.name}, are missing"


def _starts(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False


def indexed_shards(index: Path) -> Iterator[Path]:
    """Yield the files in an index's folder that the index of sharded safetensors names; none if it is damaged."""
    try:
        table = json.loads(index.read_text("utf-8"))["weight_map"]
        names = sorted({name for name in table.values() if isinstance(name, str) and name == Path(name).name})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    yield from (index.parent / name for name in names)
