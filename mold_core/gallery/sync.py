"""Keeps the gallery's rows in step with its folders. A file that cannot be shown holds nothing else up."""

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
# Of more files that cannot be shown only the number is logged.
_LOGGED_AT_ONCE = 20


@attrs.frozen(kw_only=True)
class Changes:
    """What `reconcile` found out: how many files are new, are not what they were, and are gone."""

    added: int = 0
    changed: int = 0
    removed: int = 0


def is_result(folder: str, name: str) -> bool:
    """Return whether a folder has a regular file of that name."""
    try:
        return stat.S_ISREG(os.lstat(os.path.join(folder, name)).st_mode)
    except OSError:
        return False


class Sync:
    """One pass over the folders of a gallery; see `Gallery.reconcile`."""

    def __init__(self, database: Database, thumbnails: Thumbnails) -> None:
        self._database = database
        self._thumbnails = thumbnails
        self._shown: set[str] = set()
        self._added = self._changed = self._removed = 0

    def run(self, folders: Sequence[str]) -> Changes:
        """Make the rows say what the folders hold, and return what was not so before."""
        self._database.spare.keep()
        self.finish_leaving()
        for folder in filter(isdir, folders):
            self._one(folder)
        return Changes(added=self._added, changed=self._changed, removed=self._removed)

    def finish_leaving(self) -> None:
        """Remove the files whose rows are gone, also those that a crash left."""
        with self._database.read() as connection:
            leaving = rows.leaving(connection)
        for found in leaving:
            with suppress(OSError):
                status = os.lstat(found.path)
                if status.st_mtime_ns == found.modified_ns:
                    os.unlink(found.path)
            self._thumbnails.forget(found.folder, found.filename)
        if leaving:
            with suppress(OutputError), self._database.write() as connection:  # else the next pass does it
                rows.left(connection, leaving)

    def _one(self, folder: str) -> None:
        # Rows before files: a file that is added meanwhile is then seen as one that has no row yet.
        with self._database.read() as connection:
            known, before = rows.known(connection, folder), rows.skipped(connection, folder)
        looked_at = list(results_in(folder))
        here = {
            file.filename: file for file in looked_at if isinstance(file, Found) and file.filename not in self._shown
        }
        skipped = {file.name: file for file in looked_at if isinstance(file, Skipped)}
        stale = []
        for file in here.values():
            earlier = before.get(file.filename)
            if earlier is not None and earlier.seen == _seen(file):
                skipped[file.filename] = earlier
            elif known.get(file.filename, ())[1:] != (file.modified_ns, file.size_bytes):
                stale.append(file)
        # A file that was shown and is damaged now may just be being written: it is dropped when it is so a second time.
        gone = known.keys() - (here.keys() - (skipped.keys() & before.keys()))
        self._drop(folder, {name: known[name][0] for name in gone}, skipped)
        self._shown |= here.keys()
        for filename in self._read(stale, skipped):
            self._changed, self._added = self._changed + (filename in known), self._added + (filename not in known)
        self._note(folder, skipped, before)

    def _read(self, files: Sequence[Found], skipped: dict[str, Skipped]) -> Iterator[str]:
        """Write rows for files from what they tell, and yield the names of those that were written."""
        waiting = iter(files)
        while batch := tuple(islice(waiting, _FILES_PER_TRANSACTION)):
            described_files = [(found, about) for found in batch if (about := _describe(found, skipped)) is not None]
            with self._database.write() as connection:
                written = [
                    found.filename for found, about in described_files if _insert(connection, found, about, skipped)
                ]
            yield from written

    def _drop(self, folder: str, missing: Mapping[str, int], skipped: Mapping[str, Skipped]) -> None:
        gone = {
            name: key
            for name, key in missing.items()
            if name in self._shown or name in skipped or not is_result(folder, name)
        }
        if gone:
            with self._database.write() as connection:
                for key in gone.values():
                    rows.delete(connection, key)
            for name in gone:
                self._thumbnails.forget(folder, name)
        self._removed += len(gone)

    def _note(self, folder: str, skipped: Mapping[str, Skipped], before: Mapping[str, Skipped]) -> None:
        """Write down which files are not shown, and log those of which that was not known."""
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
        # One statement fails as a whole, so the rows of other files in this transaction are not touched.
        skipped[found.filename] = _skip(found, f"its metadata cannot be kept ({type(error).__name__})")
        return False


def _skip(found: Found, reason: str) -> Skipped:
    return Skipped(folder=found.folder, name=found.filename, seen=_seen(found), reason=reason)


def _seen(found: Found) -> str:
    return f"{found.modified_ns} {found.size_bytes} {stat.S_IFREG}"
