"""Runs the jobs of the background lane, which need no device, one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from time import time
from typing import Any

from mold_core.catalog import ModelSpec
from mold_core.engine.metrics import Observers
from mold_core.errors import InferenceError
from mold_core.hookspecs import Worker
from mold_core.jobs.batch import fail_jobs
from mold_core.jobs.job import Job
from mold_core.jobs.kinds import JOB_KINDS
from mold_core.jobs.queue import JobQueue
from mold_core.jobs.repository import JobRepository
from mold_core.requests.models import Models

__all__ = ["BackgroundRunner"]

_CAPACITY = 10_000


class BackgroundRunner:
    """One thread and its queue. It is the `QueueConsumer` of the queue and the `RunContext` of its kinds."""

    def __init__(self, models: Models, observers: Observers, repository: JobRepository) -> None:
        self.queue = JobQueue(_CAPACITY)
        self._models = models
        self._observers = observers
        self._repository = repository
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    def start(self) -> None:
        """Start the thread, if it does not run yet."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="mold-background", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop the thread after the current job; `join` waits for it."""
        self._closing.set()
        self.queue.wake()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has ended."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def loaded(self) -> frozenset[str]:
        """Return an empty set: background jobs need no model in memory."""
        return frozenset()

    def takes(self, job: Job) -> bool:
        """Return True: every job of this queue can run here."""
        return True

    def cost(self, job: Job) -> tuple[int, ...]:
        """Return the same cost for every job."""
        return (0,)

    def wanted(self) -> bool:
        """Return whether the thread must end."""
        return self._closing.is_set()

    # --- for kinds -----------------------------------------------------------------------------------------------

    def batch_limit(self, job: Job) -> int:
        """Return 1: background jobs run one at a time."""
        return 1

    @property
    def models(self) -> Models:
        """The catalog, the families and the settings."""
        return self._models

    @property
    def worker(self) -> Worker:
        """Raises InferenceError: the background lane has no worker."""
        raise InferenceError("a job of the background lane has no worker")

    def loading(self, spec: ModelSpec) -> AbstractContextManager[None]:
        """Do nothing: no device is loading."""
        return nullcontext()

    def measure(self, name: str, value: float, **labels: str) -> None:
        """Report a metric to observers."""
        self._observers.measure(name, value, **labels)

    def finish_async(self, work: Callable[[], object], jobs: Sequence[Job]) -> None:
        """Run `work` now: it blocks no device."""
        try:
            work()
        except Exception as error:
            fail_jobs(jobs, error)

    def wait_finished(self) -> None:
        """Return without waiting: `finish_async` has already run all work."""

    def deliver(self, job: Job, result: Any) -> None:
        """Save the result and end the job with it."""
        self._repository.deliver(job, result)

    # --- the thread ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closing.is_set():
            jobs = self.queue.take(self, 1)
            if jobs is None:
                return
            for job in jobs:
                if job.start():
                    self._run(job)

    def _run(self, job: Job) -> None:
        self._observers.measure("queue_wait_s", time() - job.created_at, kind=job.kind)
        try:
            self._repository.began([job])
            if job.finished:
                return
            JOB_KINDS[job.kind].run([job], self)
        except Exception as error:
            fail_jobs([job], error)
