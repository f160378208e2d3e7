"""The bounded queue of jobs: first come, first served, but a loaded model is used while it is there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

import attrs

from mold_core.engine.jobs import Job
from mold_core.errors import QueueFullError
from mold_core.wire import Queued

__all__ = ["JobQueue"]


@attrs.frozen
class _Waiting:
    job: Job
    since: float


class JobQueue:
    """Jobs that wait for a worker. All methods may be called from any thread.

    A job for a model in memory may overtake others, but not one that has waited for `patience_s`.
    """

    def __init__(self, capacity: int, patience_s: float = 30.0) -> None:
        self.capacity = capacity
        self.patience_s = patience_s
        self._waiting: list[_Waiting] = []
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, job: Job) -> int:
        """Add a job and return its position, from 1. Raises QueueFullError."""
        with self._changed:
            if len(self._waiting) >= self.capacity:
                raise QueueFullError(
                    f"generation queue is full ({len(self._waiting)}/{self.capacity})", hint="try again later"
                )
            self._waiting.append(_Waiting(job, monotonic()))
            position = len(self._waiting)
            job.report(Queued(position=position))
            self._changed.notify_all()
            return position

    def position(self, job: Job) -> int:
        """Return the place of a job, from 1; 0 when it no longer waits."""
        with self._changed:
            for index, waiting in enumerate(self._waiting):
                if waiting.job is job:
                    return index + 1
            return 0

    def take(self, loaded: Callable[[], frozenset[str]], together: Callable[[Job, Job], bool], limit: int) -> list[Job]:
        """Wait for work and return one job, and others that may run `together` with it, up to `limit` pictures in all.

        A job whose model is in `loaded()` goes first, unless the oldest has waited too long. Returns an empty list
        when the queue was closed.
        """
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return []
                self._changed.wait()
            first = self._choose(loaded())
            batch, room = [first], limit - first.request.batch_size
            for waiting in self._waiting:
                job = waiting.job
                if job is not first and job.request.batch_size <= room and together(first, job):
                    batch.append(job)
                    room -= job.request.batch_size
            for job in batch:
                job.report(Queued(position=0))
            self._remove(batch)
            return batch

    def discard(self, job: Job) -> None:
        """Let a job wait no longer, if it does."""
        with self._changed:
            self._remove([job])

    def close(self) -> list[Job]:
        """Let every waiting worker go and return the jobs that were not begun."""
        with self._changed:
            self._closed = True
            left = [waiting.job for waiting in self._waiting]
            self._waiting.clear()
            self._changed.notify_all()
            return left

    def _choose(self, loaded: frozenset[str]) -> Job:
        oldest = self._waiting[0]
        if monotonic() - oldest.since < self.patience_s:
            for waiting in self._waiting:
                if waiting.job.request.model in loaded:
                    return waiting.job
        return oldest.job

    def _remove(self, jobs: list[Job]) -> None:
        """Take jobs out and tell those behind them that they have moved up."""
        before = self._waiting
        self._waiting = [waiting for waiting in before if waiting.job not in jobs]
        for index, waiting in enumerate(self._waiting):
            if waiting is not before[index]:
                waiting.job.report(Queued(position=index + 1))
