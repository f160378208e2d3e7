"""Progress of a job: stages such as "Decoding", and the steps of denoising."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from mold_core.wire import StageDone, StageStart

if TYPE_CHECKING:
    from mold_core.hookspecs import Run

__all__ = ["StepReporter", "stage"]


@contextmanager
def stage(run: Run, name: str) -> Iterator[None]:
    """Report the begin of a stage of the work, and its end with the time that it took. An error reports no end."""
    run.report(StageStart(name=name))
    started = perf_counter()
    yield
    run.report(StageDone(name=name, elapsed_ms=_since(started)))


class StepReporter:
    """Reports the steps of a run, numbered from 1 through all of its passes, each with its duration.

    `device` is where the steps compute. A GPU computes later than the host asks it to: there, a step is reported when
    the one before it has been computed. So progress and cancelling are at most one step ahead of the GPU, which always
    has its next step queued.
    """

    def __init__(self, run: Run, total: int, device: str = "cpu") -> None:
        self.run = run
        self._total = total
        self._done = 0
        self._last = perf_counter()
        self._device = device
        self._queued: Any = None

    def advance(self) -> None:
        """Report that one more step is done. Raises CancelledError when the job was cancelled."""
        if self._device.startswith("cuda"):
            self._wait_for_step_before()
        self._done += 1
        elapsed_ms, self._last = _since(self._last), perf_counter()
        self.run.step(self._done, self._total, elapsed_ms=elapsed_ms)

    def _wait_for_step_before(self) -> None:
        import torch

        before, self._queued = self._queued, torch.cuda.Event(blocking=True)
        self._queued.record(torch.cuda.current_stream(self._device))
        if before is not None:
            before.synchronize()


def _since(started: float) -> int:
    """Return the milliseconds since a reading of `perf_counter`."""
    return round((perf_counter() - started) * 1000)
