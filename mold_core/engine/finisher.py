"""Encodes and saves results in a separate thread, so that the device can continue with the next job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import Queue

from mold_core.jobs.batch import fail_jobs
from mold_core.jobs.job import Job

__all__ = ["Finisher"]

# The number of batches that may wait for the finishing thread before the device has to wait.
_WAITING = 3

_Work = tuple[Callable[[], object], Sequence[Job]]


class Finisher:
    """One thread that runs work in the order of submission. It starts with the first work."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: Queue[_Work | None] = Queue(_WAITING)
        self._thread: threading.Thread | None = None

    def put(self, work: Callable[[], object], jobs: Sequence[Job]) -> None:
        """Queue `work`; an exception from it fails the jobs. Blocks while the queue is full. One thread calls it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._queue.put((work, jobs))

    def wait_finished(self) -> None:
        """Wait until all queued work is done."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._queue.join()

    def close(self) -> None:
        """Wait until all work is done, and end the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            if thread is not threading.current_thread():
                thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            work, jobs = item
            try:
                work()
            except Exception as error:
                fail_jobs(jobs, error)
            finally:
                # PERF: otherwise the last batch would stay in memory until the next one arrives.
                del work, jobs, item
                self._queue.task_done()
