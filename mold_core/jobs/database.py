"""The SQLite file of jobs: its tables, and the recovery from a damaged or foreign file."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

from mold_core.databases import check_whole, move_aside
from mold_core.disk import Spare

__all__ = ["locked", "open_database"]

log = logging.getLogger("mold.engine")

_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    request TEXT NOT NULL,
    model TEXT,
    created_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    interruptions INTEGER NOT NULL DEFAULT 0,
    event_count INTEGER,
    warnings TEXT NOT NULL DEFAULT '[]',
    files TEXT NOT NULL DEFAULT '[]',
    error TEXT,
    key TEXT UNIQUE,
    digest TEXT
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, created_at);
CREATE TABLE IF NOT EXISTS webhooks (
    job TEXT NOT NULL,
    url TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    due_at REAL,
    PRIMARY KEY (job, url)
);
CREATE TABLE IF NOT EXISTS flags (name TEXT PRIMARY KEY);
"""

# Columns that the first version of the table did not have.
_ADDED_COLUMNS = {"interruptions": "INTEGER NOT NULL DEFAULT 0", "event_count": "INTEGER"}

_FIRST_COLUMNS = frozenset({"id", "kind", "state", "request", "created_at", "files", "error", "key", "digest"})


class _Foreign(sqlite3.DatabaseError):
    """A valid database that another program or a newer version of mold wrote."""


def open_database(path: Path, spare: Spare) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """Return two connections to the table of jobs, one to write and one to read.

    A file that cannot be used is renamed, and a new one is created. On a full disk, the space of `spare` is used,
    because opening needs some. Raises OSError or sqlite3.Error.
    """
    try:
        writer = _opened(path)
    except sqlite3.OperationalError:
        with spare.given_up():
            writer = _opened(path)
    except sqlite3.DatabaseError as error:
        _put_aside(path, error)
        writer = _opened(path)
    spare.keep()
    return writer, _connected(path)


def locked(path: Path) -> Any:
    """Return an open file with an exclusive lock. Raises OSError if another program holds the lock."""
    file = path.open("w")
    try:
        import fcntl
    except ImportError:  # Windows
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise OSError("another mold server uses this folder; give one of them another MOLD_HOME") from None
    return file


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)


def _opened(path: Path) -> sqlite3.Connection:
    connection = _connected(path)
    try:
        check_whole(connection, path)
        _check_ours(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_SCHEMA)
        _add_missing_columns(connection)
        connection.execute(f"PRAGMA user_version = {_VERSION}")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_ours(connection: sqlite3.Connection) -> None:
    """Raise _Foreign for tables of another program or of a newer version of mold. Write nothing."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        raise _Foreign("a newer mold wrote it")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and _FIRST_COLUMNS - _columns(connection):
        raise _Foreign("it holds other tables than those of jobs")


def _columns(connection: sqlite3.Connection) -> set[str]:
    return {name for _index, name, *_rest in connection.execute("PRAGMA table_info(jobs)")}


def _add_missing_columns(connection: sqlite3.Connection) -> None:
    """Add the missing columns to a table that an older version wrote."""
    present = _columns(connection)
    for name, definition in _ADDED_COLUMNS.items():
        if name not in present:
            connection.execute(f"ALTER TABLE jobs ADD COLUMN {name} {definition}")


def _put_aside(path: Path, error: sqlite3.Error) -> None:
    """Rename a database that cannot be used, and move its results to a folder beside it."""
    aside = move_aside(path)
    results = aside.with_name(f"{aside.name}.results")
    for result in path.parent.glob("*.json"):
        with suppress(OSError):
            results.mkdir(exist_ok=True)
            os.replace(result, results / result.name)
    remedy = f"`sqlite3 {aside} .recover` may read what is left"
    if isinstance(error, _Foreign):
        remedy = "start the program that wrote it with the file under its old name"
    log.error(
        "%s cannot be used: %s. It is kept as %s, and a new one is created; jobs waiting in it do not run. "
        "To get it back: %s.",
        path,
        error,
        aside,
        remedy,
    )
