"""Weights in several files: shards of GGUF and safetensors, their index, and their folders."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from mold_core.errors import CheckpointError

__all__ = ["shards_of"]

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?P<kind>gguf|safetensors)")
_INDEX = ".index.json"
_LARGEST_INDEX = 32_000_000
_MOST_SHARDS = 1000


def shards_of(path: Path) -> tuple[Path, ...]:
    """Return the files with the weights of a path: the file itself, or all shards if it is a shard.

    A folder must contain the weights of one model. An index (``….safetensors.index.json``) gives the files that it
    lists. Raises CheckpointError for a folder with several weights or none, and for missing shards, which it names.
    """
    if os.path.isdir(path):  # pathlib raises for what cannot be looked at
        path = _weights_in(path)
    if path.name.endswith(_INDEX):
        files = _of_index(path)
    else:
        match = _SHARD.fullmatch(path.name)
        if match is None:
            return (path,)
        count = int(match["count"])
        if not 0 < count <= _MOST_SHARDS:
            raise CheckpointError(f"%s: mold reads up to {_MOST_SHARDS} shards", path)
        names = (f"{match['stem']}-{number:05}-of-{match['count']}.{match['kind']}" for number in range(1, count + 1))
        files = tuple(path.with_name(name) for name in names)
    missing = [file.name for file in files if not os.path.isfile(file)]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise CheckpointError("%s: its shards are not complete: %s%s missing", path, ", ".join(missing[:3]), more)
    return files


def _weights_in(folder: Path) -> Path:
    indexes = sorted(folder.glob(f"*{_INDEX}"))
    if len(indexes) == 1:
        return indexes[0]
    files = sorted(file for kind in ("safetensors", "gguf") for file in folder.glob(f"*.{kind}"))
    matches = [_SHARD.fullmatch(file.name) for file in files]
    whole = {match["stem"] if match else file.name for file, match in zip(files, matches, strict=True)}
    if len(whole) != 1 or len(indexes) > 1:
        found = ", ".join(sorted(whole)[:3]) if whole else "none"
        raise CheckpointError("%s: a folder must hold one set of weights, and this one has: %s", folder, found)
    return files[0]


def _of_index(path: Path) -> tuple[Path, ...]:
    try:
        with path.open("rb") as file:
            index = json.loads(file.read(_LARGEST_INDEX))
        names = set(index["weight_map"].values())
    except OSError as error:
        raise CheckpointError("%s: the file cannot be read: %s", path, error) from None
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise CheckpointError("%s: this is not an index of shards", path) from None
    if not names or len(names) > _MOST_SHARDS or not all(_is_plain(name) for name in names):
        raise CheckpointError("%s: its weight_map must name files beside it", path)
    return tuple(path.with_name(name) for name in sorted(names))


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not re.search(r"[/\\\0]", name)
