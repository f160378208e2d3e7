"""Cache what files are by size and time, so that a second search of thousands of files reads none of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs

from mold_core.errors import OutputError
from mold_core.files import write_whole
from mold_core.recognition.files import recognise_shards
from mold_core.recognition.known import Knowledge
from mold_core.recognition.recognised import Network, Recognised
from mold_core.recognition.walk import WeightFiles

__all__ = ["RecognitionCache"]

_LARGEST_BYTES = 2**26


class RecognitionCache:
    """Recognises weights, or looks them up. Entries of another set of signatures are discarded."""

    def __init__(self, path: Path, knowledge: Knowledge) -> None:
        self._path = path
        self._knowledge = knowledge
        self._version = knowledge.version
        self._known = _read(path, self._version)
        self._changed = False

    def recognise(self, weights: WeightFiles) -> Recognised:
        """Return what weights are."""
        key, stamp = str(weights.paths[0]), [list(pair) for pair in weights.stamp]
        entry = self._known.get(key)
        if entry is not None and entry["stamp"] == stamp:
            return _from_table(entry)
        found = recognise_shards(weights.paths, self._knowledge)
        if found.problem is None:  # problems can disappear without a change of the file: permissions, other files
            self._known[key] = {"stamp": stamp, **attrs.asdict(found)}
            self._changed = True
        return found

    def save(self) -> None:
        """Write the cache to disk. A failure only costs time later."""
        if not self._changed:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps({"version": self._version, "files": self._known}).encode())
            self._changed = False
        except (OSError, OutputError):
            return


def _read(path: Path, version: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            return {}
        table = json.loads(path.read_bytes())
        files = table["files"] if table["version"] == version else {}
        return {key: entry for key, entry in files.items() if _is_whole(entry)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _is_whole(entry: Any) -> bool:
    try:
        _from_table(entry)
        return isinstance(entry["stamp"], list)
    except (KeyError, TypeError, AttributeError):
        return False


def _from_table(entry: dict[str, Any]) -> Recognised:
    networks = (Network(**{**network, "details": tuple(network["details"])}) for network in entry["networks"])
    return Recognised(
        paths=tuple(entry["paths"]),
        size_bytes=entry["size_bytes"],
        container=entry["container"],
        networks=tuple(networks),
        problem=entry["problem"],
        metadata=entry["metadata"],
    )
