"""Keeps jobs and their results: in memory for a while, and on the disk if the engine has a store."""

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
from mold_core.jobs.job import Job, JobState, Prepared, events_before
from mold_core.jobs.kinds import JOB_KINDS, ResultFile
from mold_core.jobs.recent import RecentJobs, result_bytes
from mold_core.jobs.store import JobRow, JobStore, error_of
from mold_core.jobs.webhook_outbox import WebhookOutbox
from mold_core.wire import Info
from mold_core.wire.convert import from_text
from mold_core.wire.text import text_pieces, to_text

__all__ = ["JobRepository", "digest_of"]

log = logging.getLogger("mold.engine")

_PAUSED = "paused"


class JobRepository:
    """The jobs of an engine: in memory, in the store (if there is one), and their images in the gallery (if any).

    `gallery_error` says why the last result could not be saved in the gallery; None if it was saved.
    """

    def __init__(self, store: JobStore | None = None, gallery: Gallery | None = None) -> None:
        self._recent = RecentJobs()
        self._store = store
        self._gallery = gallery
        self._lock = threading.Lock()
        self._durable: set[str] = set()
        self._last_ms = 0
        self.gallery_error: str | None = None
        self.webhooks = WebhookOutbox(store)

    # --- life cycle of a job -------------------------------------------------------------------------------------

    def accept(self, job: Job, *, durable: bool, key: str | None, digest: str) -> Future[None]:
        """Add a new job; the future completes when the job is stored. The caller holds the engine's lock."""
        job.created_at = self._unique(job.created_at)
        self._recent.add(job, key, digest)
        if self._store is None or not durable:
            future: Future[None] = Future()
            future.set_result(None)
            return future
        with self._lock:
            self._durable.add(job.id)
        return self._store.accept(
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
        """Remove a job that was accepted but could not be queued."""
        self._recent.forget(job)
        if self._forget_durable(job) and self._store is not None:
            with suppress(OutputError):  # the store logs it
                self._store.remove(job.id).result()

    def check_room(self, job: Job) -> None:
        """Raise InsufficientStorageError if a disk of the store or the gallery lacks the space for the result."""
        if self._store is not None and JOB_KINDS[job.kind].has_files:
            gallery_folders = [] if self._gallery is None else [Path(self._gallery.folders[0])]
            check_room(job.request, [self._store.folder, *gallery_folders])

    def began(self, jobs: Sequence[Job]) -> None:
        """Record that jobs are running, so that a job that crashes the program does not run again forever.

        A durable job fails here, before any work, if the disk has not enough space for its result.
        """
        durable = [job for job in jobs if self._store is not None and job.id in self._durable]
        for job in durable:
            try:
                self.check_room(job)
            except InsufficientStorageError as error:
                job.fail(error)
        for written in [self._begin(self._store, job) for job in durable if self._store and not job.finished]:
            with suppress(OutputError):  # the store logs it; the job itself may still succeed
                written.result()

    def deliver(self, job: Job, result: Any) -> None:
        """Save a result in the gallery and the store, then end the job with it.

        Clients get the result even if saving fails; the failure is added to its warnings and logged.
        """
        if not job.seal():
            return
        try:
            job.finish(self._kept(job, result))
        except Exception as error:
            job.fail(own_error(error))

    def ended(self, job: Job) -> None:
        """Handle the end of a job. Records a failure; `deliver` has already recorded a result."""
        self._recent.ended(job, result_bytes(job._result))
        if self._forget_durable(job) and self._store is not None and job.error is not None:
            self._store.update(
                job.id,
                state=job.state,
                finished_at=job.finished_at,
                error=job.error.to_json(),
                event_count=job.event_count,
            )

    def postpone(self, job: Job) -> bool:
        """Leave an unfinished job in the store for the next start of the engine; False if it is not stored."""
        if self._store is None or not self._forget_durable(job):
            return False
        self._store.update(job.id, durable=True, state="queued", attempts=0)
        return True

    def delete(self, job: Job) -> None:
        """Remove a finished job and its stored result; files in the gallery stay.

        Raises OutputError if the disk cannot be written.
        """
        self._recent.forget(job)
        if self._store is not None:
            self._store.remove(job.id).result()

    # --- reading -------------------------------------------------------------------------------------------------

    def find(self, id: str) -> Job:
        """Return a job by its id. Raises JobNotFoundError."""
        job = self._recent.find(id)
        if job is None and self._store is not None:
            row = self._store.find(id)
            job = None if row is None else self._restored(row)
        if job is None:
            raise JobNotFoundError(f"there is no job {id!r}, or it is no longer kept", field="id", value=id)
        return job

    def ended_before(self, id: str) -> bool:
        """Return whether a job has ended or is no longer kept."""
        try:
            return self.find(id).finished
        except JobNotFoundError:
            return True

    def find_key(self, key: str, digest: str) -> Job | None:
        """Return the job that was submitted with a key. Raises ValidationError if its request was a different one."""
        found = self._recent.find_key(key)
        if found is None and self._store is not None:
            row = self._store.find_key(key)
            found = None if row is None else (self._recent.find(row.id) or self._restored(row), row.digest)
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
        """Return all jobs in memory and in the store, oldest first."""
        jobs = {job.id: job for job in self._recent.all()}
        for row in self._store.all() if self._store is not None else ():
            if row.id in jobs:
                continue
            try:
                jobs[row.id] = self._restored(row)
            except (MoldError, KeyError) as error:  # written by another version; the other jobs are still listed
                log.debug("job %s cannot be shown: %s", row.id, error)
        return sorted(jobs.values(), key=lambda job: job.created_at)

    def restore(self, job: Job, row: JobRow) -> None:
        """Add a job that a previous engine left unfinished."""
        job.interruptions = row.interruptions
        if job.interruptions:
            job.runs_alone = True  # it may have crashed the previous engine, and must not affect other jobs again
        job.count_events_from(events_before(row.created_at, time.time()))
        self._recent.add(job, row.key, row.digest)
        with self._lock:
            self._durable.add(job.id)

    def recent(self) -> list[Job]:
        """Return the jobs in memory: recently finished ones, then the others."""
        return self._recent.all()

    def live(self) -> list[Job]:
        """Return the jobs that have not ended, oldest first."""
        return self._recent.live()

    def same_work(self, job: Job) -> Job | None:
        """Return the live job of the same kind with the same dedupe key, if there is one."""
        kind = JOB_KINDS[job.kind]
        key = kind.dedupe_key(job.request)
        others = (other for other in self.live() if other.kind == job.kind and not other.finished)
        return None if key is None else next((o for o in others if kind.dedupe_key(o.request) == key), None)

    # --- the store -----------------------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether the queue was last recorded as paused."""
        return self._store is not None and self._store.flag(_PAUSED)

    def note_paused(self, paused: bool) -> None:
        """Record whether the queue is paused."""
        if self._store is not None:
            with suppress(OutputError):  # the store logs it; the queue is paused or resumed in any case
                self._store.set_flag(_PAUSED, paused).result()

    def unfinished(self) -> list[JobRow]:
        """Return the rows of jobs that an earlier engine left unfinished, oldest first."""
        return [] if self._store is None else self._store.unfinished()

    def update(self, id: str, **columns: Any) -> None:
        """Write columns of a job durably."""
        if self._store is not None:
            with suppress(OutputError):  # the store logs it; a job does not fail because its row cannot be written
                self._store.update(id, durable=True, **columns).result()

    def flush(self) -> None:
        """Wait until all pending writes are on the disk."""
        if self._store is not None:
            self._store.flush()

    def close(self) -> None:
        """Finish pending writes and close the store."""
        if self._store is not None:
            self._store.close()

    # --- internal ------------------------------------------------------------------------------------------------

    def _unique(self, moment: float) -> float:
        """Return `moment`, or slightly later: file names contain the millisecond, so no two jobs may share it."""
        with self._lock:
            self._last_ms = max(int(moment * 1000), self._last_ms + 1)
            return self._last_ms / 1000

    def _begin(self, store: JobStore, job: Job) -> Future[None]:
        return store.update(job.id, state="running", attempts=job.attempts, started_at=job.started_at)

    def _forget_durable(self, job: Job) -> bool:
        with self._lock:
            was_durable = job.id in self._durable
            self._durable.discard(job.id)
        return was_durable

    def _kept(self, job: Job, result: Any) -> Any:
        """Save a result in the gallery and the store; return it with a warning for each of them that failed."""
        try:
            result = self._add_to_gallery(job, result)
        except Exception as error:
            self.gallery_error = reason_of(error)
            result = _warned(job, result, f"the result could not be saved in the gallery: {self.gallery_error}", error)
        if self._store is not None and job.id in self._durable:
            try:
                self._write_down(self._store, job, result)
            except Exception as error:
                words = f"the result is kept only until the server ends: {reason_of(error)}"
                result = _warned(job, result, words, error)
        return result

    def _add_to_gallery(self, job: Job, result: Any) -> Any:
        """Save a result's files in the gallery, and return it with their names.

        Names derive from the job, so saving again creates no duplicates.
        """
        kind = JOB_KINDS[job.kind]
        if self._gallery is None or not kind.has_files:
            return result
        moment = round(job.created_at * 1000)
        for file in kind.files_of(job, result):
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
        return kind.named(result, job.files)

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
            Prepared(request=from_text(kind.request_class, row.request), warnings=tuple(row.warnings)),
            kind=row.kind,
            id=row.id,
            created_at=row.created_at,
        )
        job.model, job.files = row.model, tuple(row.files)
        job.attempts, job.interruptions = row.attempts, row.interruptions
        job.started_at, job.finished_at = row.started_at, row.finished_at
        last = events_before(row.created_at, row.finished_at) if row.event_count is None else row.event_count
        job.count_events_from(last)
        job.restore(cast(JobState, row.state), error_of(row), lambda: self._read_result(row))
        return job

    def _read_result(self, row: JobRow) -> Any:
        data = None if self._store is None else self._store.result(row.id)
        if data is None:
            raise JobNotFoundError(f"the result of job {row.id!r} is no longer kept", field="id", value=row.id)
        try:
            return from_text(JOB_KINDS[row.kind].response_class, data)
        except ValidationError as error:
            raise OutputError(f"the result of job {row.id!r} is damaged on the disk") from error


def _warned(job: Job, result: Any, words: str, error: Exception) -> Any:
    """Return a result with a warning, and add the warning to the job and the log."""
    log.error("job %s is done, but %s", job.id, words, exc_info=error)
    job.warnings = (*job.warnings, words)
    job.report(Info(message=words))
    if not hasattr(result, "warnings"):
        return result
    return attrs.evolve(result, warnings=(*(result.warnings or ()), words))


def _parents(gallery: Gallery, file: ResultFile) -> list[Parent]:
    source = gallery.holding(file.enlarged) if file.enlarged else None
    return [] if source is None else [Parent(relation="upscaled-from", name=source.filename)]


def digest_of(request: Any) -> str:
    """Return a SHA-256 digest of a request; equal requests have equal digests."""
    digest = hashlib.sha256()
    for piece in text_pieces([type(request).__name__, request], sort_keys=True):
        digest.update(piece.encode())
    return digest.hexdigest()
