"""Full disks: the reason for a failed write, the free space, and a spare file that reserves some."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["Spare", "free_bytes", "is_full", "reason_of"]

_SPARE_BYTES = 256 * 1024

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than the disk or `ulimit -f` allows",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOENT: "the folder does not exist",
    errno.ENOTDIR: "the folder is a file",
    errno.EIO: "the disk reported an error",
}
_DATABASE_REASONS = {
    "full": "the disk is full",
    "readonly": "the database is read-only",
    "locked": "the database is in use",
    "malformed": "the database is damaged",
    "not a database": "the database is damaged",
}


def reason_of(error: BaseException) -> str:
    """Return why something could not be written, in words without paths, which may be sent to clients."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno is not None:
            return _REASONS.get(cause.errno, (os.strerror(cause.errno)).lower())
        if isinstance(cause, sqlite3.Error):
            found = (words for mark, words in _DATABASE_REASONS.items() if mark in str(cause))
            return next(found, "the database reported an error")
    return "the reason is in the log of the server"


def is_full(error: BaseException) -> bool:
    """Return whether an error, or its cause, is that of a full disk."""
    return any(
        (isinstance(cause, OSError) and cause.errno in _FULL)
        or (isinstance(cause, sqlite3.Error) and "is full" in str(cause))
        for cause in _chain(error)
    )


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist yet."""
    existing = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    return shutil.disk_usage(existing).free


class Spare:
    """A file that reserves disk space, and releases it for a write that must not fail on a full disk.

    SQLite needs disk space even to delete a row. `given_up` releases space for that.
    """

    def __init__(self, path: Path, size_bytes: int = _SPARE_BYTES) -> None:
        self._path = path
        self._size_bytes = size_bytes

    def keep(self) -> None:
        """Create the file if it is missing and there is enough free space."""
        try:
            if self._path.exists():
                return
            # NOTE: random bytes, because some file systems use no space for a file of zeros.
            self._path.write_bytes(os.urandom(self._size_bytes))
        except OSError:
            with suppress(OSError):
                self._path.unlink()

    @contextmanager
    def given_up(self) -> Iterator[None]:
        """Delete the file during the block, then create it again if there is enough free space."""
        with suppress(OSError):
            self._path.unlink()
        try:
            yield
        finally:
            self.keep()


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(8):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__
