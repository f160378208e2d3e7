"""Synchronizes the gallery's rows with its folders. An unusable file does not affect other files."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from os.path import isdir

import attrs

from mold_core.errors import OutputError
from mold_core.gallery import rows
from mold_core.gallery.database import Database
from mold_core.gallery.folder import Found, Skipped, Unusable, described, results_in
from mold_core.gallery.thumbnails import Thumbnails
from mold_core.media.metadata import OutputMetadata

__all__ = ["Changes", "Sync", "is_result"]

log = logging.getLogger("mold.gallery")

_FILES_PER_TRANSACTION = 500
# If more files are unusable, only their number is logged.
_LOGGED_AT_ONCE = 20


@attrs.frozen(kw_only=True)
class Changes:
    """The numbers of new, changed and removed files that `reconcile` found."""

    added: int = 0
    changed: int = 0
    removed: int = 0


def is_result(folder: str, name: str) -> bool:
    """Return whether a folder has a regular file with a name."""
    try:
        return stat.S_ISREG(os.lstat(os.path.join(folder, name)).st_mode)
    except OSError:
        return False


class Sync:
    """One pass over the folders of a gallery; see `Gallery.reconcile`."""

    def __init__(self, database: Database, thumbnails: Thumbnails) -> None:
        self._database = database
        self._thumbnails = thumbnails
        self._listed: set[str] = set()
        self._added = self._changed = self._removed = 0

    def run(self, folders: Sequence[str]) -> Changes:
        """Update the rows to match the folders, and return the changes."""
        self._database.spare.keep()
        self.finish_deletions()
        for folder in filter(isdir, folders):
            self._sync_folder(folder)
        return Changes(added=self._added, changed=self._changed, removed=self._removed)

    def finish_deletions(self) -> None:
        """Delete the files whose rows are deleted, including those left by a crash."""
        with self._database.read() as connection:
            pending = rows.pending_deletions(connection)
        for found in pending:
            with suppress(OSError):
                status = os.lstat(found.path)
                if status.st_mtime_ns == found.modified_ns:
                    os.unlink(found.path)
            self._thumbnails.forget(found.folder, found.filename)
        if pending:
            with suppress(OutputError), self._database.write() as connection:  # the next pass tries again
                rows.end_deletion(connection, pending)

    def _sync_folder(self, folder: str) -> None:
        # Read rows before files: a file that is added in between then has no row in `known`.
        with self._database.read() as connection:
            known, before = rows.known(connection, folder), rows.skipped(connection, folder)
        listing = list(results_in(folder))
        here = {
            file.filename: file for file in listing if isinstance(file, Found) and file.filename not in self._listed
        }
        skipped = {file.name: file for file in listing if isinstance(file, Skipped)}
        stale = []
        for file in here.values():
            earlier = before.get(file.filename)
            if earlier is not None and earlier.seen == _seen(file):
                skipped[file.filename] = earlier
            elif known.get(file.filename, ())[1:] != (file.modified_ns, file.size_bytes):
                stale.append(file)
        # A listed file that is damaged now may be in the middle of a write: it is removed on the second such pass.
        missing = known.keys() - (here.keys() - (skipped.keys() & before.keys()))
        self._drop(folder, {name: known[name][0] for name in missing}, skipped)
        self._listed |= here.keys()
        for filename in self._read(stale, skipped):
            self._changed, self._added = self._changed + (filename in known), self._added + (filename not in known)
        self._note(folder, skipped, before)

    def _read(self, files: Sequence[Found], skipped: dict[str, Skipped]) -> Iterator[str]:
        """Write rows with the metadata of files, and yield the names of those that were written."""
        waiting = iter(files)
        while batch := tuple(islice(waiting, _FILES_PER_TRANSACTION)):
            described_files = [(found, about) for found in batch if (about := _describe(found, skipped)) is not None]
            with self._database.write() as connection:
                written = [
                    found.filename for found, about in described_files if _insert(connection, found, about, skipped)
                ]
            yield from written

    def _drop(self, folder: str, missing: Mapping[str, int], skipped: Mapping[str, Skipped]) -> None:
        removed = {
            name: key
            for name, key in missing.items()
            if name in self._listed or name in skipped or not is_result(folder, name)
        }
        if removed:
            with self._database.write() as connection:
                for key in removed.values():
                    rows.delete(connection, key)
            for name in removed:
                self._thumbnails.forget(folder, name)
        self._removed += len(removed)

    def _note(self, folder: str, skipped: Mapping[str, Skipped], before: Mapping[str, Skipped]) -> None:
        """Record which files are not listed, and log the new ones."""
        if skipped == before:
            return
        fresh = [file for name, file in sorted(skipped.items()) if before.get(name) != file]
        for file in fresh[:_LOGGED_AT_ONCE]:
            log.warning("%r is not shown in the gallery: %s", os.path.join(folder, file.name), file.reason)
        if len(fresh) > _LOGGED_AT_ONCE:
            log.warning("%d more files are not shown; `mold doctor` lists them", len(fresh) - _LOGGED_AT_ONCE)
        with self._database.write() as connection:
            rows.replace_skipped(connection, folder, skipped.values())


def _describe(found: Found, skipped: dict[str, Skipped]) -> tuple[OutputMetadata, bool] | None:
    try:
        return described(found)
    except Unusable as error:
        skipped[found.filename] = _skip(found, str(error))
        return None


def _insert(
    connection: sqlite3.Connection, found: Found, about: tuple[OutputMetadata, bool], skipped: dict[str, Skipped]
) -> bool:
    try:
        return rows.insert_if_new(connection, found, *about)
    except (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, ValueError, OverflowError) as error:
        # Only this statement fails; the rows of other files in the transaction are not affected.
        skipped[found.filename] = _skip(found, f"its metadata cannot be stored ({type(error).__name__})")
        return False


def _skip(found: Found, reason: str) -> Skipped:
    return Skipped(folder=found.folder, name=found.filename, seen=_seen(found), reason=reason)


def _seen(found: Found) -> str:
    return f"{found.modified_ns} {found.size_bytes} {stat.S_IFREG}"
