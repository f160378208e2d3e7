"""SHA-256 checksums of model files, and a ledger of them so that 23 GB are not read again for every pull."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import attrs

from mold_core.catalog.model import ModelFile, ModelSpec
from mold_core.catalog.store import ModelStore
from mold_core.errors import CheckpointError, OutputError
from mold_core.files import write_whole

__all__ = ["ChecksumLedger", "FileVerdict", "sha256_of", "update_digest", "verify_files"]

LEDGER_NAME = ".verified.json"
_CHUNK_BYTES = 1 << 20


@attrs.frozen(kw_only=True)
class FileVerdict:
    """Whether a file is correct; `words` gives the result or the problem as text."""

    component: str
    path: Path
    size_bytes: int
    sha256: str | None
    right: bool
    words: str


def verify_files(
    spec: ModelSpec, store: ModelStore, progress: Callable[[Path, int, int], object] = lambda path, done, total: None
) -> Iterator[FileVerdict]:
    """Yield a verdict on every file of a model. Every file is read completely, regardless of the ledger.

    `progress` is called with the path, the bytes read so far and the size of the file. A file without a checksum in the
    catalog is compared with the checksum recorded when it was downloaded, or else only with its size.
    """
    recorded = ChecksumLedger(store.models_dir, nullcontext)
    seen: dict[Path, FileVerdict] = {}  # a file with several components is read once
    for file in spec.files:
        choices = store.choices(spec, file)
        path = choices[0] if choices else store.path_of(spec, file)
        is_alternative = bool(choices) and path != store.path_of(spec, file)
        known = recorded.known(path) if choices and not spec.embedded else None
        if path not in seen:
            seen[path] = _verdict(file, path, is_alternative, known, progress)
        yield attrs.evolve(seen[path], component=file.component)


def _verdict(
    file: ModelFile, path: Path, is_alternative: bool, known: str | None, progress: Callable[[Path, int, int], object]
) -> FileVerdict:
    if not path.is_file():
        return FileVerdict(
            component=file.component, path=path, size_bytes=0, sha256=None, right=False, words="is missing"
        )
    size_bytes, read = path.stat().st_size, 0

    def tick() -> None:
        nonlocal read
        read = min(read + _CHUNK_BYTES, size_bytes)
        progress(path, read, size_bytes)

    sha256 = sha256_of(path, tick)
    expected = known if is_alternative else (file.sha256 or known or "").lower() or None
    if file.size_bytes and not is_alternative and size_bytes != file.size_bytes:
        right, words = False, f"has {size_bytes:,} bytes instead of {file.size_bytes:,}"
    elif expected and sha256 != expected:
        right, words = False, f"has the sha256 {sha256} instead of {expected}"
    elif expected:
        right, words = True, "has the correct sha256"
    else:
        right = True
        words = (
            "has the correct size; no checksum is known" if file.size_bytes else "exists; no size or checksum is known"
        )
    return FileVerdict(
        component=file.component, path=path, size_bytes=size_bytes, sha256=sha256, right=right, words=words
    )


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
        raise CheckpointError("%s cannot be read: %s", path, (error.strerror or "disk error").lower()) from error


@attrs.frozen
class ChecksumLedger:
    """The sha256 of files below a folder, stored in ``.verified.json`` there.

    An entry is valid while the size and modification time of the file do not change. A damaged or unwritable ledger
    costs time, never correctness. `lock` prevents concurrent writers from losing each other's entries.
    """

    folder: Path
    lock: Callable[[], Any]

    def known(self, path: Path) -> str | None:
        """Return the recorded sha256 of a file below the folder, or None if it has none or has changed."""
        entry = self._entries().get(self._key(path) or "")
        return str(entry[2]) if entry and entry[:2] == _fingerprint(path) else None

    def sha256(self, path: Path, tick: Callable[[], object] = lambda: None) -> str:
        """Compute, record and return the sha256 of a file below the folder; `tick` as for `sha256_of`."""
        fingerprint = _fingerprint(path)
        sha256 = sha256_of(path, tick)
        if fingerprint == _fingerprint(path):
            self.record(path, sha256)
        return sha256

    def record(self, path: Path, sha256: str) -> None:
        """Record the sha256 of a file below the folder; other files are ignored."""
        key = self._key(path)
        if key is None:
            return
        with suppress(OSError, OutputError), self.lock():
            entries = {key: entry for key, entry in self._entries().items() if (self.folder / key).is_file()}
            entries[key] = [*_fingerprint(path), sha256]
            text = json.dumps(dict(sorted(entries.items())), indent=1)
            write_whole(self.folder / LEDGER_NAME, text.encode())

    def find(self, sha256: str) -> Path | None:
        """Return a file below the folder with this recorded sha256 that has not changed since, or None."""
        for key, entry in self._entries().items():
            path = self.folder / key
            if entry[2] == sha256 and path.is_file() and entry[:2] == _fingerprint(path):
                return path
        return None

    def _key(self, path: Path) -> str | None:
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else None

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
