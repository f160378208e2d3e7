"""Detects damaged SQLite files, and moves them aside."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["check_whole", "move_aside"]

# A check reads the whole file, at about half a gigabyte per second.
_CHECKED_BYTES = 100_000_000


def check_whole(connection: sqlite3.Connection, path: Path) -> None:
    """Raise sqlite3.DatabaseError if a database is damaged. Only the first page of a very large file is checked."""
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if path.stat().st_size > _CHECKED_BYTES:
        return
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(f"database disk image is malformed: {found}")


def move_aside(path: Path) -> Path:
    """Rename a damaged database and its write-ahead log, and return the new path of the database."""
    stamp = int(time.time())
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    while aside.exists():
        stamp += 1
        aside = path.with_name(f"{path.name}.damaged-{stamp}")
    os.replace(path, aside)
    # The log is kept too, because it may have data that the file does not have.
    with suppress(OSError):
        os.replace(f"{path}-wal", f"{path}-wal.damaged-{stamp}")
    with suppress(OSError):
        os.unlink(f"{path}-shm")
    return aside
