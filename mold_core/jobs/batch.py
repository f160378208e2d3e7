"""The interface between pipelines and running jobs, and how jobs fail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import attrs

from mold_core.errors import CancelledError, InferenceError, MoldError
from mold_core.jobs.job import Job
from mold_core.wire import DenoiseStep, Preview, ProgressEvent, StageDone

__all__ = ["BatchRun", "fail_jobs", "own_error"]

log = logging.getLogger("mold.engine")


class BatchRun:
    """A running batch as pipelines see it: events go to every job, and it is cancelled when every job has ended.

    A batch that is computed in several parts counts its steps across all parts. `part` is the index of the current
    part, from 0. `images` lists the images of that part: the job of each, and its index in that job. `on_stage` is
    called with the name and duration in seconds of each finished stage.
    """

    def __init__(
        self, jobs: Sequence[Job], parts: int = 1, on_stage: Callable[[str, float], object] | None = None
    ) -> None:
        self._jobs = jobs
        self._parts = parts
        self._on_stage = on_stage
        self.part = 0
        self.images: Sequence[tuple[Job, int]] = ()

    @property
    def cancelled(self) -> bool:
        """Whether every job has ended, so that the result is not needed."""
        return all(job.finished for job in self._jobs)

    def report(self, event: ProgressEvent) -> None:
        """Send an event to every job of the batch; a preview only to the job whose image it shows."""
        if isinstance(event, Preview):
            self._show(event)
            return
        for job in self._jobs:
            job.report(event)
        if self._on_stage is not None and isinstance(event, StageDone):
            self._on_stage(event.name, event.elapsed_ms / 1000)

    def _show(self, preview: Preview) -> None:
        if preview.index < len(self.images):
            job, index = self.images[preview.index]
            job.report(
                attrs.evolve(
                    preview,
                    index=index,
                    step=self.part * preview.total + preview.step,
                    total=self._parts * preview.total,
                )
            )

    def step(self, step: int, total: int, elapsed_ms: int) -> None:
        """Report a finished denoising step, then `check()`."""
        self.report(DenoiseStep(step=self.part * total + step, total=self._parts * total, elapsed_ms=elapsed_ms))
        self.check()

    def check(self) -> None:
        """Raise CancelledError if every job has ended."""
        if self.cancelled:
            raise CancelledError("the job was cancelled")

    @contextmanager
    def on_cancel(self, cancelled: Callable[[], object]) -> Iterator[None]:
        """Call `cancelled` as soon as every job has ended, in the thread that ends the last one.

        A worker in another process needs it, because it cannot check `cancelled` between its steps.
        """

        def notify() -> None:
            if self.cancelled:
                cancelled()

        stops = [job.watch(notify) for job in self._jobs]
        try:
            notify()  # every job may have ended before
            yield
        finally:
            for stop in stops:
                stop()


def fail_jobs(jobs: Sequence[Job], error: Exception) -> None:
    """Fail the jobs with an error. An exception that is not a MoldError is logged with its traceback."""
    if not all(job.finished for job in jobs):
        error = own_error(error)
        for job in jobs:
            job.fail(error)


def own_error(error: Exception) -> MoldError:
    """Return the error as a MoldError. Any other exception is logged with its traceback and wrapped."""
    if isinstance(error, MoldError):
        return error
    log.error("a job failed", exc_info=error)
    return InferenceError("generation error: %s", error)
