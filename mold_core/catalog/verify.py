"""What a file's bytes are: its sha256, remembered so that 23 GB are not read at every pull."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from mold_core.errors import CheckpointError, OutputError
from mold_core.files import write_whole

__all__ = ["ChecksumLedger", "sha256_of", "update_digest"]

LEDGER_NAME = ".verified.json"
_CHUNK_BYTES = 1 << 20


def sha256_of(path: Path, tick: Callable[[], object] = lambda: None) -> str:
    """Return the sha256 of a file, as 64 hexadecimal digits. `tick` is called after every MiB.

    Raises CheckpointError when the file cannot be read.
    """
    digest = hashlib.sha256()
    update_digest(digest, path, tick)
    return digest.hexdigest()


def update_digest(digest: Any, path: Path, tick: Callable[[], object] = lambda: None) -> None:
    """Add the bytes of a file to a hashlib object; see `sha256_of`."""
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                tick()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {(error.strerror or 'disk error').lower()}") from error


@attrs.frozen
class ChecksumLedger:
    """Remembers the sha256 of files below a folder, in ``.verified.json`` there.

    An entry holds as long as the file keeps its size and modification time. A ledger that is damaged or cannot be
    written costs time, never correctness. `lock` keeps two writers apart; without it one may undo the other's entry.
    """

    folder: Path
    lock: Callable[[], Any]

    def known(self, path: Path) -> str | None:
        """Return the sha256 of a file below the folder if it is remembered and the file has not changed."""
        entry = self._entries().get(self._key(path))
        return str(entry[2]) if entry and entry[:2] == _fingerprint(path) else None

    def sha256(self, path: Path, tick: Callable[[], object] = lambda: None) -> str:
        """Return the sha256 of a file below the folder, and remember it; `tick` as for `sha256_of`."""
        fingerprint = _fingerprint(path)
        sha256 = sha256_of(path, tick)
        if fingerprint == _fingerprint(path):
            self.record(path, sha256)
        return sha256

    def record(self, path: Path, sha256: str) -> None:
        """Remember the sha256 of a file below the folder."""
        with suppress(OSError, OutputError), self.lock():
            entries = {key: entry for key, entry in self._entries().items() if (self.folder / key).is_file()}
            entries[self._key(path)] = [*_fingerprint(path), sha256]
            text = json.dumps(dict(sorted(entries.items())), indent=1)
            write_whole(self.folder / LEDGER_NAME, text.encode())

    def find(self, sha256: str) -> Path | None:
        """Return a file below the folder that is known to have this sha256 and has not changed since."""
        for key, entry in self._entries().items():
            path = self.folder / key
            if entry[2] == sha256 and path.is_file() and entry[:2] == _fingerprint(path):
                return path
        return None

    def _key(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _entries(self) -> Mapping[str, list[Any]]:
        try:
            entries = json.loads((self.folder / LEDGER_NAME).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(entries, dict):
            return {}
        return {key: entry for key, entry in entries.items() if isinstance(entry, list) and len(entry) == 3}


def _fingerprint(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]
