"""Finds and deletes leftovers: unfinished downloads, markers of dead pulls, unused shared files, caches."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import attrs

from mold_core.catalog.marker import clear_stale, pull_runs
from mold_core.catalog.model import ModelSpec
from mold_core.catalog.pull import CACHE_NAME
from mold_core.catalog.remove import needed_by
from mold_core.catalog.store import PULL_MARKER, ModelStore
from mold_core.files import PART_NAME

__all__ = ["Leftover", "delete", "find_leftovers"]

Kind = Literal["unfinished download", "marker of a dead pull", "shared file of no model", "cache", "unfinished file"]


@attrs.frozen(kw_only=True)
class Leftover:
    """A file that can be deleted, what it is, and how many bytes deleting it frees."""

    path: Path
    kind: Kind
    size_bytes: int


def find_leftovers(
    catalog: Mapping[str, ModelSpec], store: ModelStore, cache_dir: Path, *, older_than_s: float
) -> list[Leftover]:
    """Return the files that can be deleted, if they are older than `older_than_s` seconds.

    Files that a running pull or a downloaded model uses are excluded, and so are files in the models folder that no
    catalog entry describes. Symbolic links are neither followed nor returned.
    """
    before = time.time() - older_than_s
    found = [*_in_models_folder(catalog, store), *_files(cache_dir, "cache")]
    return [
        leftover
        for leftover in found
        # The lock shows that a pull is dead, so the age of its marker does not matter.
        if leftover.kind == "marker of a dead pull" or leftover.path.lstat().st_mtime < before
    ]


def delete(leftovers: Iterable[Leftover]) -> int:
    """Delete files and return the number of freed bytes. Files that are in use by now or cannot be deleted stay."""
    freed = 0
    for leftover in leftovers:
        with suppress(OSError):
            if leftover.kind == "marker of a dead pull":
                clear_stale(leftover.path)
                continue
            if leftover.kind == "unfinished download" and _is_locked(leftover.path):
                continue
            leftover.path.unlink()
            freed += leftover.size_bytes
    return freed


def _in_models_folder(catalog: Mapping[str, ModelSpec], store: ModelStore) -> Iterator[Leftover]:
    folder = store.models_dir
    for path in (folder / CACHE_NAME).glob("models--*/blobs/*.incomplete"):
        if _is_plain(path) and not _is_locked(path):
            yield _leftover(path, "unfinished download")
    if not folder.is_dir():
        return
    for entry in sorted(folder.iterdir()):
        marker = entry / PULL_MARKER
        if _is_plain(marker) and not entry.is_symlink() and not pull_runs(marker):
            yield _leftover(marker, "marker of a dead pull")
    for path in _walk(folder):
        if PART_NAME.fullmatch(path.name):
            yield _leftover(path, "unfinished file")
    yield from _orphans(catalog, store)


def _orphans(catalog: Mapping[str, ModelSpec], store: ModelStore) -> Iterator[Leftover]:
    described = {
        store.path_of(spec, file)
        for spec in catalog.values()
        if not spec.embedded
        for file in spec.files
        if file.path.startswith("shared/")
    }
    for path in sorted(described):
        if _is_plain(path) and _is_inside(path, store.models_dir) and not _is_usable(path, catalog, store):
            yield _leftover(path, "shared file of no model")


def _is_usable(path: Path, catalog: Mapping[str, ModelSpec], store: ModelStore) -> bool:
    """Return whether a downloaded model uses a shared file, or could use it instead of another one."""
    if any(needed_by(path, catalog.values(), store)):
        return True
    return any(
        path in store.choices(spec, file)
        for spec in catalog.values()
        if not spec.embedded and spec.part_of is None and store.has(spec)
        for file in spec.files
    )


def _is_locked(partial: Path) -> bool:
    """Return whether a pull is writing to a partial file."""
    try:
        from filelock import FileLock, Timeout
    except ImportError:
        return False  # pulling needs filelock
    lock = partial.parents[2] / ".locks" / f"{partial.stem}.lock"
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _files(folder: Path, kind: Kind) -> Iterator[Leftover]:
    for path in _walk(folder):
        yield _leftover(path, kind)


def _walk(folder: Path) -> Iterator[Path]:
    for parent, _folders, names in os.walk(folder, followlinks=False):
        for name in sorted(names):
            path = Path(parent, name)
            if _is_plain(path):
                yield path


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _is_inside(path: Path, folder: Path) -> bool:
    return path.parent.resolve().is_relative_to(folder.resolve())


def _leftover(path: Path, kind: Kind) -> Leftover:
    status = path.lstat()
    return Leftover(path=path, kind=kind, size_bytes=status.st_size if status.st_nlink == 1 else 0)
