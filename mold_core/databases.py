"""SQLite files that cannot be used: how to recognise them, and how to put them aside."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["check_whole", "move_aside"]

# A check reads the whole file; at half a gigabyte a second that is noticed only for larger ones.
_CHECKED_BYTES = 100_000_000


def check_whole(connection: sqlite3.Connection, path: Path) -> None:
    """Raise sqlite3.DatabaseError if a database is damaged. Of a very large file only its first page is looked at."""
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if path.stat().st_size > _CHECKED_BYTES:
        return
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(f"database disk image is malformed: {found}")


def move_aside(path: Path) -> Path:
    """Rename a database that cannot be used, with its write-ahead log, and return its new path."""
    stamp = int(time.time())
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    while aside.exists():
        stamp += 1
        aside = path.with_name(f"{path.name}.damaged-{stamp}")
    os.replace(path, aside)
    # The log is kept as well: it may hold what the file does not.
    with suppress(OSError):
        os.replace(f"{path}-wal", f"{path}-wal.damaged-{stamp}")
    with suppress(OSError):
        os.unlink(f"{path}-shm")
    return aside
