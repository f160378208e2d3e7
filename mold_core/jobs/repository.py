"""Keeps jobs and what they made: in memory for a while, and on the disk where the engine is to."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import attrs

from mold_core.disk import reason_of
from mold_core.errors import InsufficientStorageError, JobNotFoundError, MoldError, OutputError, ValidationError
from mold_core.gallery import Gallery, Parent, file_name
from mold_core.jobs.batch import own_error
from mold_core.jobs.disk_space import check_room
from mold_core.jobs.job import Job, JobKind, JobState, events_before
from mold_core.jobs.kinds import JOB_KINDS, ResultFile
from mold_core.jobs.recent import RecentJobs, result_bytes
from mold_core.jobs.store import JobRow, JobStore, error_of
from mold_core.wire import Info
from mold_core.wire.convert import from_text
from mold_core.wire.text import text_pieces, to_text

__all__ = ["JobRepository", "digest_of"]

log = logging.getLogger("mold.engine")


class JobRepository:
    """The jobs of an engine: in memory, in the store (if there is one), and their images in the gallery (if any).

    `gallery_error` says why the last result could not be saved in the gallery; None where it was.
    """

    def __init__(self, store: JobStore | None = None, gallery: Gallery | None = None) -> None:
        self.registry = RecentJobs()
        self.store = store
        self._gallery = gallery
        self._lock = threading.Lock()
        self._durable: set[str] = set()
        self._last_ms = 0
        self.gallery_error: str | None = None

    # --- a job's life --------------------------------------------------------------------------------------------

    def accept(self, job: Job, *, durable: bool, key: str | None, digest: str) -> Future[None]:
        """Know a new job; the future is done when it is where it is kept. The caller holds the engine's lock."""
        job.created_at = self._unique(job.created_at)
        self.registry.add(job, key, digest)
        if self.store is None or not durable:
            future: Future[None] = Future()
            future.set_result(None)
            return future
        with self._lock:
            self._durable.add(job.id)
        return self.store.accept(
            JobRow(
                id=job.id,
                kind=job.kind,
                state="queued",
                request=to_text(job.request),
                model=job.model,
                created_at=job.created_at,
                warnings=job.warnings,
                key=key,
                digest=digest,
            )
        )

    def refuse(self, job: Job) -> None:
        """Forget a job that could not be queued after all."""
        self.registry.forget(job)
        if self._forget_durable(job) and self.store is not None:
            with suppress(OutputError):  # it is in the log
                self.store.remove(job.id).result()

    def check_room(self, job: Job) -> None:
        """Raise InsufficientStorageError if the result of a job could not be kept where jobs and results are."""
        if self.store is not None and hasattr(JOB_KINDS[job.kind], "files_of"):
            shelf = [] if self._gallery is None else [Path(self._gallery.folders[0])]
            check_room(job.request, [self.store.folder, *shelf])

    def began(self, jobs: Sequence[Job]) -> None:
        """Write down that jobs are being run, so that one that ends the whole program is not run for ever.

        A job that is kept fails here, before any work, if there is no room for its result.
        """
        kept = [job for job in jobs if self.store is not None and job.id in self._durable]
        for job in kept:
            try:
                self.check_room(job)
            except InsufficientStorageError as error:
                job.fail(error)
        for written in [self._begin(self.store, job) for job in kept if self.store and not job.finished]:
            with suppress(OutputError):  # it is in the log; the job itself may well succeed
                written.result()

    def deliver(self, job: Job, result: Any) -> None:
        """Save a result wherever results are kept, then end the job with it.

        Whoever waits gets the result in any case: what could not be saved is told in its warnings and in the log.
        """
        if not job.seal():
            return
        try:
            job.finish(self._kept(job, result))
        except Exception as error:
            job.fail(own_error(error))

    def ended(self, job: Job) -> None:
        """Know that a job has ended; a failure is written down, a result has been."""
        self.registry.ended(job, result_bytes(job._result))
        if self._forget_durable(job) and self.store is not None and job.error is not None:
            self.store.update(
                job.id,
                state=job.state,
                finished_at=job.finished_at,
                error=job.error.to_json(),
                event_count=job.event_count,
            )

    def postpone(self, job: Job) -> bool:
        """Let a job that has not ended go on when the engine starts again; False if it is not written down."""
        if self.store is None or not self._forget_durable(job):
            return False
        self.store.update(job.id, durable=True, state="queued", attempts=0)
        return True

    # --- looking -------------------------------------------------------------------------------------------------

    def find(self, id: str) -> Job:
        """Return a job by its id. Raises JobNotFoundError."""
        job = self.registry.find(id)
        if job is None and self.store is not None:
            row = self.store.find(id)
            job = None if row is None else self._restored(row)
        if job is None:
            raise JobNotFoundError(f"there is no job {id!r}, or it is no longer kept", field="id", value=id)
        return job

    def ended_before(self, id: str) -> bool:
        """Say whether a job has ended, or is not kept."""
        try:
            return self.find(id).finished
        except JobNotFoundError:
            return True

    def find_key(self, key: str, digest: str) -> Job | None:
        """Return the job that was submitted with a key. Raises ValidationError if that was for another request."""
        found = self.registry.find_key(key)
        if found is None and self.store is not None:
            row = self.store.find_key(key)
            found = None if row is None else (self.registry.find(row.id) or self._restored(row), row.digest)
        if found is None:
            return None
        job, before = found
        if before != digest:
            raise ValidationError(
                f"idempotency key {key!r} was given before, with another request",
                field="idempotency_key",
                value=key,
                hint="use a new key for a new request",
            )
        return job

    def all(self) -> list[Job]:
        """Return the jobs that are kept, oldest first."""
        jobs = {job.id: job for job in self.registry.all()}
        for row in self.store.all() if self.store is not None else ():
            if row.id in jobs:
                continue
            try:
                jobs[row.id] = self._restored(row)
            except (MoldError, KeyError) as error:  # of another version; it is not to hide all others
                log.debug("job %s cannot be shown: %s", row.id, error)
        return sorted(jobs.values(), key=lambda job: job.created_at)

    def know_again(self, job: Job, row: JobRow) -> None:
        """Know a job from before the engine was started."""
        job.interruptions = row.interruptions
        if job.interruptions:
            job.batch_key = None  # it may have ended the engine before this one: it takes no other with it again
        job.count_events_from(events_before(row.created_at, time.time()))
        self.registry.add(job, row.key, row.digest)
        with self._lock:
            self._durable.add(job.id)

    # --- inside --------------------------------------------------------------------------------------------------

    def _unique(self, moment: float) -> float:
        """Return the moment, or one a little later: no two jobs are of the same millisecond, which names files."""
        with self._lock:
            self._last_ms = max(int(moment * 1000), self._last_ms + 1)
            return self._last_ms / 1000

    def _begin(self, store: JobStore, job: Job) -> Future[None]:
        return store.update(job.id, state="running", attempts=job.attempts, started_at=job.started_at)

    def _forget_durable(self, job: Job) -> bool:
        with self._lock:
            there = job.id in self._durable
            self._durable.discard(job.id)
        return there

    def _kept(self, job: Job, result: Any) -> Any:
        """Return a result that was saved where results are kept, with a warning for each place that did not take it."""
        try:
            result = self._add_to_gallery(job, result)
        except Exception as error:
            self.gallery_error = reason_of(error)
            result = _warned(job, result, f"the result could not be saved in the gallery: {self.gallery_error}", error)
        if self.store is not None and job.id in self._durable:
            try:
                self._write_down(self.store, job, result)
            except Exception as error:
                words = f"the result is kept only until the server ends: {reason_of(error)}"
                result = _warned(job, result, words, error)
        return result

    def _add_to_gallery(self, job: Job, result: Any) -> Any:
        """Save a result's files in the gallery, and return it with their names.

        Names follow from the job, so doing it again does not double them.
        """
        files_of = getattr(JOB_KINDS[job.kind], "files_of", None)
        if self._gallery is None or files_of is None:
            return result
        moment = round(job.created_at * 1000)
        for file in files_of(job, result):
            name = file_name(job.model or job.kind, moment, file.index, file.format)
            entry = self._gallery.add(
                file.data,
                file.metadata,
                format=file.format,
                index=file.index,
                parents=_parents(self._gallery, file),
                name=name,
            )
            job.files = (*job.files, entry.filename)
        self.gallery_error = None
        return JOB_KINDS[job.kind].named(result, job.files) if hasattr(JOB_KINDS[job.kind], "named") else result  # type: ignore[attr-defined]

    def _write_down(self, store: JobStore, job: Job, result: Any) -> None:
        store.write_result(job.id, to_text(result))
        store.update(
            job.id,
            durable=True,
            state="done",
            finished_at=time.time(),
            files=job.files,
            warnings=job.warnings,
            event_count=job.event_count,
        ).result()

    def _restored(self, row: JobRow) -> Job:
        kind = JOB_KINDS[row.kind]
        job = Job(
            from_text(kind.request_class, row.request),
            kind=cast(JobKind, row.kind),
            id=row.id,
            created_at=row.created_at,
            warnings=tuple(row.warnings),
        )
        job.model, job.files = row.model, tuple(row.files)
        job.attempts, job.interruptions = row.attempts, row.interruptions
        job.started_at, job.finished_at = row.started_at, row.finished_at
        last = events_before(row.created_at, row.finished_at) if row.event_count is None else row.event_count
        job.count_events_from(last)
        job.restore(cast(JobState, row.state), error_of(row), lambda: self._read_result(row))
        return job

    def _read_result(self, row: JobRow) -> Any:
        data = None if self.store is None else self.store.result(row.id)
        if data is None:
            raise JobNotFoundError(f"the result of job {row.id!r} is no longer kept", field="id", value=row.id)
        try:
            return from_text(JOB_KINDS[row.kind].response_class, data)
        except ValidationError as error:
            raise OutputError(f"the result of job {row.id!r} is damaged on the disk") from error


def _warned(job: Job, result: Any, words: str, error: Exception) -> Any:
    """Return a result with a warning, which also the job and the log get."""
    log.error("job %s is done, but %s", job.id, words, exc_info=error)
    job.warnings = (*job.warnings, words)
    job.report(Info(message=words))
    if not hasattr(result, "warnings"):
        return result
    return attrs.evolve(result, warnings=(*(result.warnings or ()), words))


def _parents(gallery: Gallery, file: ResultFile) -> list[Parent]:
    small = gallery.holding(file.enlarged) if file.enlarged else None
    return [] if small is None else [Parent(relation="upscaled-from", name=small.filename)]


def digest_of(request: Any) -> str:
    """Return a short text that is the same for the same request."""
    digest = hashlib.sha256()
    for piece in text_pieces([type(request).__name__, request], sort_keys=True):
        digest.update(piece.encode())
    return digest.hexdigest()
