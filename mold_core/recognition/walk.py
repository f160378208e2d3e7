"""Find the weights below a folder: files, groups of shards, and their names."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import attrs

from mold_core.recognition.files import SHARD

__all__ = ["WeightFiles", "name_of", "walk"]

# Suffixes of weight files. Other files are weights only if they are large and start like safetensors or GGUF.
_SUFFIXES = frozenset({".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin", ".param", ".onnx"})
_LARGE_BYTES = 8_000_000

# Folders without models, which may be huge.
_SKIPPED = frozenset({
    "venv", "env", "node_modules", "site-packages", "__pycache__", "python_embeded", "python_embedded", "output",
    "outputs", "temp", "blobs", "refs", ".git", ".venv",
})  # fmt: skip

# Generic stems of files, which are named after their folder, and generic folder names.
_VAGUE = re.compile(
    r"^(diffusion_pytorch_model|model|pytorch_model|weights|checkpoint|adapter_model|pytorch_lora_weights|consolidated)"
    r"([._-](fp16|bf16|fp32|int8|fp8|non_ema|ema))*$",
    re.IGNORECASE,
)
_ROLES = frozenset(
    {"transformer", "transformer_2", "unet", "vae", "text_encoder", "text_encoder_2", "text_encoder_3", "snapshots"}
)
_COMMIT = re.compile(r"^[0-9a-f]{40}$")


@attrs.frozen
class WeightFiles:
    """The files of one set of weights, with their sizes and times, and their name."""

    paths: tuple[Path, ...]
    name: str
    stamp: tuple[tuple[int, int], ...]


def walk(root: Path) -> Iterator[WeightFiles]:
    """Yield the weights at `root`, a file or a folder, and in all folders below it, ordered by path.

    Links are followed, each folder is visited once, and hidden folders are skipped. Unreadable entries are left out.
    """
    if os.path.isfile(root):
        yield from _in_folder(root.parent, [root.name])
        return
    seen: set[tuple[int, int]] = set()
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            about = folder.stat()
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            continue
        files, folders = [], []
        for entry in listed:
            try:
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.is_file():
                    files.append(entry.name)
            except OSError:
                continue
        yield from _in_folder(folder, files)
        pending += [
            folder / name for name in reversed(folders) if name not in _SKIPPED and not name.startswith((".", "__"))
        ]


def name_of(path: Path) -> str:
    """Return the name of a file: its own, or that of its folder if its own is generic."""
    shard = SHARD.match(path.name)
    stem = shard["stem"] if shard else path.stem
    if not _VAGUE.match(stem):
        return stem
    for parent in path.parents:
        if parent.name.startswith("models--"):
            return f"{parent.name.split('--')[-1]}{_variant(stem)}"
        if parent.name and parent.name not in _ROLES and not _COMMIT.match(parent.name):
            return f"{parent.name}{_variant(stem)}"
    return stem


def _variant(stem: str) -> str:
    found = _VAGUE.match(stem)
    return f"-{found[2].strip('._-')}" if found and found[2] else ""


def _in_folder(folder: Path, names: list[str]) -> Iterator[WeightFiles]:
    shards: dict[tuple[str, str, str], list[Path]] = defaultdict(list)
    for name in names:
        path = folder / name
        shard = SHARD.match(name)
        if shard and path.suffix.lower() in _SUFFIXES:
            shards[shard["stem"], shard["count"], shard["suffix"]].append(path)
        elif _is_weights(path, names) and (found := _stamped((path,))):
            yield found
    for paths in shards.values():
        if found := _stamped(tuple(sorted(paths))):
            yield found


def _is_weights(path: Path, siblings: list[str]) -> bool:
    suffix = path.suffix.lower()
    if suffix == ".bin" and f"{path.stem}.param" in siblings:
        return False  # the weights of an ncnn network, which its description identifies
    if suffix in _SUFFIXES:
        return True
    if suffix or path.name.startswith("."):
        return False
    try:
        if path.stat().st_size < _LARGE_BYTES:
            return False
        with path.open("rb") as file:
            head = file.read(9)
    except OSError:
        return False
    return head.startswith(b"GGUF") or head[8:9] == b"{"


def _ncnn_weights(graph: Path) -> list[Path]:
    """Return the weights of an ncnn network by its description."""
    weights = graph.with_suffix(".bin")
    return [weights] if os.path.isfile(weights) else []


def _stamped(paths: tuple[Path, ...]) -> WeightFiles | None:
    try:
        read = paths if paths[0].suffix.lower() != ".param" else (*paths, *_ncnn_weights(paths[0]))
        stamp = tuple((about.st_size, about.st_mtime_ns) for about in (path.stat() for path in read))
    except OSError:
        return None
    return WeightFiles(paths, name_of(paths[0]), stamp)
