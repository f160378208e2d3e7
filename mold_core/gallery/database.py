"""The gallery's SQLite file: its tables, its connections, its transactions."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, LifoQueue

from mold_core.errors import OutputError
from mold_core.files import output_error

__all__ = ["Database"]

log = logging.getLogger("mold.gallery")

_VERSION = 1
_BUSY_TIMEOUT_S = 30.0

# `key` is made of the file's time and a counter, so that order of time is order of the table: pages and searches read
# rows from the newest on and stop when they have enough, however many there are.
_SCHEMA = """
CREATE TABLE entries (
    key         INTEGER PRIMARY KEY,
    folder      TEXT NOT NULL,
    filename    TEXT NOT NULL,
    modified_ns INTEGER NOT NULL,
    size_bytes  INTEGER NOT NULL,
    metadata    TEXT NOT NULL,
    synthetic   INTEGER NOT NULL DEFAULT 0,
    favourite   INTEGER NOT NULL DEFAULT 0,
    prompts     TEXT NOT NULL DEFAULT '',
    model       TEXT NOT NULL DEFAULT '',
    labels      TEXT NOT NULL DEFAULT '',
    UNIQUE (folder, filename)
);
CREATE INDEX entries_by_folder ON entries (folder);
CREATE INDEX favourites ON entries (folder) WHERE favourite;

CREATE TABLE tags (
    tag TEXT NOT NULL COLLATE NOCASE,
    key INTEGER NOT NULL REFERENCES entries ON DELETE CASCADE ON UPDATE CASCADE,
    PRIMARY KEY (tag, key)
) WITHOUT ROWID;
CREATE INDEX tags_by_entry ON tags (key);

CREATE TABLE parents (
    key      INTEGER NOT NULL REFERENCES entries ON DELETE CASCADE ON UPDATE CASCADE,
    place    INTEGER NOT NULL,
    relation TEXT NOT NULL,
    name     TEXT NOT NULL,
    PRIMARY KEY (key, place)
) WITHOUT ROWID;
CREATE INDEX parents_by_name ON parents (name);

-- Files whose row is gone and that are about to be removed, so that a crash in between does not bring them back.
CREATE TABLE leaving (
    folder      TEXT NOT NULL,
    filename    TEXT NOT NULL,
    modified_ns INTEGER NOT NULL,
    PRIMARY KEY (folder, filename)
) WITHOUT ROWID;

CREATE VIRTUAL TABLE words USING fts5 (
    prompts, model, labels,
    content='entries', content_rowid='key', tokenize='unicode61 remove_diacritics 2', prefix='1 2 3'
);
CREATE TRIGGER words_new AFTER INSERT ON entries BEGIN
    INSERT INTO words (rowid, prompts, model, labels)
    VALUES (new.key, new.prompts, new.model, new.labels);
END;
CREATE TRIGGER words_gone AFTER DELETE ON entries BEGIN
    INSERT INTO words (words, rowid, prompts, model, labels)
    VALUES ('delete', old.key, old.prompts, old.model, old.labels);
END;
CREATE TRIGGER words_changed AFTER UPDATE OF key, prompts, model, labels ON entries BEGIN
    INSERT INTO words (words, rowid, prompts, model, labels)
    VALUES ('delete', old.key, old.prompts, old.model, old.labels);
    INSERT INTO words (rowid, prompts, model, labels)
    VALUES (new.key, new.prompts, new.model, new.labels);
END;
"""


class Database:
    """Connections to one SQLite file in WAL mode, for any number of threads and processes.

    Readers see the last finished transaction and wait for nobody; writers take turns.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it. One that is damaged is moved aside and begun anew.

        Raises OutputError when the file cannot be made or was written by a newer mold.
        """
        self.path = path
        self._idle: LifoQueue[sqlite3.Connection] = LifoQueue()
        self._writing = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(path, error) from error
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise OutputError(f"cannot use {str(path)!r}: {error}", value=str(path)) from error
            self._move_aside()
            self._prepare()

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection for reading."""
        connection = self._take()
        try:
            yield connection
        finally:
            self._idle.put(connection)

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection inside a transaction that is committed at the end, or undone by an exception.

        Raises OutputError when the disk does not take it.
        """
        with self._writing, self.read() as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                with suppress(sqlite3.Error):
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    hint = "free some space" if "full" in str(error) else None
                    raise OutputError(f"cannot write {str(self.path)!r}: {error}", hint=hint) from error
                raise

    def close(self) -> None:
        """Close the connections that are not in use."""
        with suppress(Empty):
            while True:
                self._idle.get_nowait().close()

    def _take(self) -> sqlite3.Connection:
        with suppress(Empty):
            return self._idle.get_nowait()
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        connection.row_factory = sqlite3.Row
        # NORMAL: a power cut may undo the last transactions, whose files the next reconciling finds again.
        for pragma in ("foreign_keys = ON", "synchronous = NORMAL", "temp_store = MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _prepare(self) -> None:
        connection = self._take()
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _statements(_SCHEMA):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        self._idle.put(connection)
        if version > _VERSION:
            self.close()
            raise OutputError(
                f"{str(self.path)!r} was written by a newer mold", hint="update mold, or move that file away"
            )

    def _move_aside(self) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged-{int(time.time())}")
        os.replace(self.path, aside)
        for suffix in ("-wal", "-shm"):
            with suppress(OSError):
                os.unlink(f"{self.path}{suffix}")
        log.warning("%s is damaged; it is kept as %s and a new one is made from the files", self.path, aside)


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script; sqlite3's own executescript() would end the transaction first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
