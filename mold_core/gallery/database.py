"""The gallery's SQLite file: its tables, its connections, its transactions."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, LifoQueue

from mold_core.databases import move_aside
from mold_core.disk import Spare, is_full, reason_of
from mold_core.errors import OutputError
from mold_core.files import output_error

__all__ = ["Database"]

log = logging.getLogger("mold.gallery")

_VERSION = 1
_BUSY_TIMEOUT_S = 30.0

# `key` consists of the file's time and a counter, so the table is ordered by time. Pages and searches read from the
# newest row and stop when they have enough, regardless of the size of the table.
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

-- Files whose row is deleted and that are about to be deleted, so that a crash in between does not restore them.
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


# Files that are not listed, and why. Older versions ignore this table. A name may be any bytes.
_SKIPPED = """
CREATE TABLE IF NOT EXISTS skipped (
    folder TEXT NOT NULL,
    name   BLOB NOT NULL,
    seen   TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (folder, name)
) WITHOUT ROWID
"""

_NEEDED = (
    "SELECT key, folder, filename, modified_ns, size_bytes, metadata, synthetic, favourite, labels FROM entries",
    "SELECT tag, key FROM tags",
    "SELECT key, place, relation, name FROM parents",
    "SELECT folder, filename, modified_ns FROM leaving",
    "SELECT prompts, model, labels FROM words",
)


class Database:
    """Connections to one SQLite file in WAL mode, for any number of threads and processes.

    Readers see the last committed transaction and never wait; writers take turns.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file. A damaged or foreign file is moved aside and a new one is created.

        Raises OutputError if the file cannot be created or was written by a newer version of mold.
        """
        self.path = path
        self._idle: LifoQueue[sqlite3.Connection] = LifoQueue()
        self._writing = threading.Lock()
        self.spare = Spare(path.with_name(f"{path.name}-spare"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(path, error) from error
        try:
            self._prepare_with_spare()
        except sqlite3.OperationalError as error:
            hint = "free some space" if is_full(error) else None
            raise OutputError("cannot use '%s': %s", path, error, value=str(path), hint=hint) from error
        except sqlite3.DatabaseError as error:
            aside = move_aside(path)
            log.warning("%s cannot be used (%s); it is kept as %s, and rebuilt from the files", path, error, aside)
            self._prepare()
        self.spare.keep()

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Provide a connection for reading during the block. Raises OutputError if the database cannot be read."""
        try:
            connection = self._take()
        except sqlite3.Error as error:
            raise self._unusable("read", error) from error
        try:
            yield connection
        except sqlite3.Error as error:
            raise self._unusable("read", error) from error
        finally:
            self._idle.put(connection)

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Provide a connection with a transaction that is committed at the end, or rolled back on an exception.

        Raises OutputError if the database cannot be written.
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
                if isinstance(error, sqlite3.Error):
                    raise self._unusable("write", error) from error
                raise

    @contextmanager
    def spare_space(self) -> Iterator[None]:
        """Release the space of the spare file during the block, then truncate the write-ahead log."""
        with self.spare.given_up():
            try:
                yield
            finally:
                with suppress(OutputError), self.read() as connection:
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the idle connections."""
        with suppress(Empty):
            while True:
                self._idle.get_nowait().close()

    def _unusable(self, verb: str, error: sqlite3.Error) -> OutputError:
        hint = "free some space" if is_full(error) else None
        return OutputError("cannot %s '%s': %s (%s)", verb, self.path, reason_of(error), error, hint=hint)

    def _take(self) -> sqlite3.Connection:
        with suppress(Empty):
            return self._idle.get_nowait()
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        connection.row_factory = sqlite3.Row
        # NORMAL: a power failure may lose the last transactions; the next reconcile finds their files again.
        for pragma in ("foreign_keys = ON", "synchronous = NORMAL", "temp_store = MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _prepare_with_spare(self) -> None:
        """Prepare the file; on a full disk use the space of the spare file, because even opening needs some."""
        try:
            self._prepare()
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise
            with self.spare.given_up():
                self._prepare()

    def _prepare(self) -> None:
        connection = self._take()
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                _create(connection)
            if version <= _VERSION:
                _check_tables(connection)
                connection.execute(_SKIPPED)
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        self._idle.put(connection)
        if version > _VERSION:
            self.close()
            raise OutputError("'%s' was written by a newer mold", self.path, hint="update mold, or move that file away")


def _create(connection: sqlite3.Connection) -> None:
    if connection.execute("SELECT 1 FROM sqlite_master").fetchone() is not None:
        raise sqlite3.DatabaseError("it has tables of another program")
    for statement in _statements(_SCHEMA):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {_VERSION}")


def _check_tables(connection: sqlite3.Connection) -> None:
    """Raise sqlite3.DatabaseError unless the tables are those of a gallery."""
    try:
        for query in _NEEDED:
            connection.execute(f"{query} LIMIT 0")
    except sqlite3.OperationalError as error:
        if "no such" not in str(error):
            raise
        raise sqlite3.DatabaseError(f"it is not a gallery: {error}") from error


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script, because sqlite3's executescript() would commit the transaction first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
