"""Jobs on disk: a SQLite table and a file for each result, so that jobs survive a restart of the program."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import attrs

from mold_core.disk import Spare, is_full, reason_of
from mold_core.errors import InsufficientStorageError, MoldError, OutputError
from mold_core.files import write_whole
from mold_core.jobs.database import locked, open_database

__all__ = ["JobRow", "JobStore", "error_of"]

log = logging.getLogger("mold.engine")

_EXPIRE_EVERY_S = 60.0


@attrs.frozen(kw_only=True)
class JobRow:
    """A job as stored on disk. `request` is JSON text, `error` the envelope of a failure; times in Unix seconds.

    `attempts` counts how often the last engine started it, `interruptions` how often an engine was killed while it ran.
    `event_count` is the number of the event that stands for the end of a finished job.
    """

    id: str
    kind: str
    state: str
    request: str
    model: str | None = None
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    attempts: int = 0
    interruptions: int = 0
    event_count: int | None = None
    warnings: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    error: dict[str, str] | None = None
    key: str | None = None
    digest: str | None = None


_COLUMNS = tuple(field.name for field in attrs.fields(JobRow))
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM jobs"

_Statement = tuple[str, tuple[Any, ...], bool, "Future[None]"]


class JobStore:
    """The table of jobs in a folder, and their results. All methods may be called from any thread.

    Durable writes (an accepted job, a finished job) are on the disk when their future completes; concurrent writes
    share one flush. Other writes survive a crash of the program, but not of the machine.

    Only one program can use the folder at a time. Raises OutputError when the folder cannot be used.
    """

    def __init__(self, folder: Path, retention_s: float) -> None:
        self.folder = folder
        self._retention_s = retention_s
        self._statements: SimpleQueue[_Statement | None] = SimpleQueue()
        self._reading = threading.Lock()
        self._spare = Spare(folder / "jobs.db-spare")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock_file = locked(folder / "jobs.lock")
            self._writer, self._reader = open_database(folder / "jobs.db", self._spare)
        except (OSError, sqlite3.Error) as error:
            hint = "free some space" if is_full(error) else None
            raise OutputError("jobs cannot be kept in '%s': %s", folder, error, value=str(folder), hint=hint) from error
        self._expire()
        self._thread = threading.Thread(target=self._write, name="mold-jobs", daemon=True)
        self._thread.start()

    # --- writing -------------------------------------------------------------------------------------------------

    def accept(self, row: JobRow) -> Future[None]:
        """Write a new job; the future completes when the job is on the disk."""
        values = (_text(getattr(row, name)) for name in _COLUMNS)
        marks = ", ".join("?" * len(_COLUMNS))
        return self._put(f"INSERT INTO jobs ({', '.join(_COLUMNS)}) VALUES ({marks})", tuple(values), durable=True)

    def update(self, id: str, *, durable: bool = False, **columns: Any) -> Future[None]:
        """Change columns of a job."""
        names = ", ".join(f"{name} = ?" for name in columns)
        values = tuple(map(_text, columns.values()))
        return self._put(f"UPDATE jobs SET {names} WHERE id = ?", (*values, id), durable=durable)

    def remove(self, id: str) -> Future[None]:
        """Remove a job and its result."""
        self._result_path(id).unlink(missing_ok=True)
        return self._put("DELETE FROM jobs WHERE id = ?", (id,), durable=True)

    def add_webhook(self, id: str, url: str) -> Future[None]:
        """Record that an address is to be notified of the end of a job."""
        return self._put("INSERT OR IGNORE INTO webhooks (job, url) VALUES (?, ?)", (id, url), durable=True)

    def change_webhook(self, id: str, url: str, attempts: int, due_at: float) -> Future[None]:
        """Record the number of attempts for an address, and the time of the next one in Unix seconds."""
        sql = "UPDATE webhooks SET attempts = ?, due_at = ? WHERE job = ? AND url = ?"
        return self._put(sql, (attempts, due_at, id, url), durable=False)

    def remove_webhook(self, id: str, url: str) -> Future[None]:
        """Record that an address need not be notified any more."""
        return self._put("DELETE FROM webhooks WHERE job = ? AND url = ?", (id, url), durable=False)

    def set_flag(self, name: str, on: bool) -> Future[None]:
        """Set or clear a flag."""
        sql = "INSERT OR IGNORE INTO flags (name) VALUES (?)" if on else "DELETE FROM flags WHERE name = ?"
        return self._put(sql, (name,), durable=True)

    def write_result(self, id: str, result: str) -> None:
        """Write a result, as JSON text, to the disk atomically. Raises OutputError."""
        write_whole(self._result_path(id), result.encode())

    def flush(self) -> None:
        """Wait until all previous writes are on the disk."""
        self._put("SELECT 1", (), durable=True).result()

    # --- reading -------------------------------------------------------------------------------------------------

    def find(self, id: str) -> JobRow | None:
        """Return a job by its id."""
        return self._first("WHERE id = ?", id)

    def find_key(self, key: str) -> JobRow | None:
        """Return the job that was accepted with a key."""
        return self._first("WHERE key = ?", key)

    def unfinished(self) -> list[JobRow]:
        """Return the jobs that have not ended, oldest first."""
        return self._rows("WHERE state IN ('queued', 'running') ORDER BY created_at, id")

    def all(self) -> list[JobRow]:
        """Return every stored job, oldest first."""
        return self._rows("ORDER BY created_at, id")

    def webhooks(self) -> list[tuple[str, str, int, float | None]]:
        """Return job, address, number of attempts and time of the next one for every pending webhook."""
        return self._read("SELECT job, url, attempts, due_at FROM webhooks", ())

    def flag(self, name: str) -> bool:
        """Return whether a flag is set."""
        return bool(self._read("SELECT 1 FROM flags WHERE name = ?", (name,)))

    def result(self, id: str) -> bytes | None:
        """Return a result as JSON text, or None if it is not stored."""
        try:
            return self._result_path(id).read_bytes()
        except OSError:
            return None

    # --- closing -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Finish pending writes, and release the lock on the folder."""
        if self._thread.is_alive():
            self._statements.put(None)
            self._thread.join()
            with self._reading:
                self._reader.close()
            self._writer.close()
            self._lock_file.close()

    # --- internal ------------------------------------------------------------------------------------------------

    def _result_path(self, id: str) -> Path:
        return self.folder / f"{id}.json"

    def _put(self, sql: str, values: tuple[Any, ...], *, durable: bool) -> Future[None]:
        future: Future[None] = Future()
        self._statements.put((sql, values, durable, future))
        return future

    def _write(self) -> None:
        """Run queued statements until `close`, all that are waiting in one transaction."""
        while True:
            batch: list[_Statement | None] = []
            with suppress(Empty):
                batch.append(self._statements.get(timeout=max(self._expire_at - time.monotonic(), 0)))
                while True:
                    batch.append(self._statements.get_nowait())
            statements = [item for item in batch if item is not None]
            if statements:
                self._commit(statements)
            if len(statements) < len(batch):
                return
            if time.monotonic() >= self._expire_at:
                self._expire()
            del batch, statements

    def _expire(self) -> None:
        """Remove jobs that ended longer ago than the retention time, and results without a job.

        A job with a pending webhook is kept.
        """
        self._spare.keep()
        try:
            before = time.time() - self._retention_s
            delivered = "id NOT IN (SELECT job FROM webhooks)"
            self._writer.execute(f"DELETE FROM jobs WHERE finished_at < ? AND {delivered}", (before,))
            kept = {id_ for (id_,) in self._writer.execute("SELECT id FROM jobs WHERE state IN ('done', 'running')")}
            for path in self.folder.glob("*.json"):
                if path.stem not in kept:
                    path.unlink(missing_ok=True)
        except (OSError, sqlite3.Error) as error:
            log.warning("old jobs could not be removed: %s", error)
        self._expire_at = time.monotonic() + _EXPIRE_EVERY_S

    def _commit(self, statements: Sequence[_Statement]) -> None:
        """Run statements and complete their futures. No error ends the thread."""
        try:
            outcomes = self._transaction(statements)
        except Exception as error:
            outcomes = [error] * len(statements)
            if is_full(error):
                outcomes = self._with_spare(statements)
        for (_sql, _values, _durable, future), outcome in zip(statements, outcomes, strict=True):
            if outcome is None:
                future.set_result(None)
            else:
                log.error("a job could not be written: %s", outcome)
                future.set_exception(_refusal(outcome))

    def _with_spare(self, statements: Sequence[_Statement]) -> list[Exception | None]:
        """Run statements in the space reserved for a full disk: a job that ends or is deleted frees more."""
        with self._spare.given_up():
            try:
                return self._transaction(statements)
            except Exception as error:
                return [error] * len(statements)
            finally:
                with suppress(sqlite3.Error):
                    self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _transaction(self, statements: Sequence[_Statement]) -> list[Exception | None]:
        level = "FULL" if any(durable for _sql, _values, durable, _future in statements) else "NORMAL"
        try:
            self._writer.execute(f"PRAGMA synchronous = {level}")
            self._writer.execute("BEGIN IMMEDIATE")
            outcomes = [self._execute(sql, values) for sql, values, _durable, _future in statements]
            self._writer.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")
            raise
        return outcomes

    def _execute(self, sql: str, values: tuple[Any, ...]) -> Exception | None:
        """Run one statement; return an error of its own, so that the other statements still succeed."""
        try:
            self._writer.execute(sql, values)
        except (
            sqlite3.IntegrityError,
            sqlite3.ProgrammingError,
            sqlite3.DataError,
            ValueError,
            OverflowError,
        ) as error:
            return error
        return None

    def _first(self, where: str, *values: Any) -> JobRow | None:
        return next(iter(self._rows(where, *values)), None)

    def _rows(self, where: str, *values: Any) -> list[JobRow]:
        rows = self._read(f"{_SELECT} {where}", values)
        return [_row(dict(zip(_COLUMNS, row, strict=True))) for row in rows]

    def _read(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        try:
            with self._reading:
                return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise OutputError("the table of jobs cannot be read: %s", reason_of(error)) from error


def _refusal(error: Exception) -> MoldError:
    if is_full(error):
        return InsufficientStorageError("there is no room on the disk of the server to keep the job")
    return OutputError("the job could not be written to the disk: %s", error)


def error_of(row: JobRow) -> MoldError | None:
    """Return the error that a job ended with, as an instance of the class with its code."""
    if row.error is None:
        return None
    classes = {cls.code: cls for cls in _subclasses(MoldError)}
    return classes.get(row.error.get("code", ""), MoldError)(row.error.get("error", "the job failed"))


def _subclasses(cls: type[MoldError]) -> list[type[MoldError]]:
    return [cls, *(below for child in cls.__subclasses__() for below in _subclasses(child))]


def _row(values: dict[str, Any]) -> JobRow:
    for name in ("warnings", "files"):
        values[name] = tuple(json.loads(values[name]))
    values["error"] = values["error"] and json.loads(values["error"])
    return JobRow(**values)


def _text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, tuple | list | dict) else value
