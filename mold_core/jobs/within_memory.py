"""Computes requests in batches as large as memory allows; a batch is halved when memory runs out."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import attrs

from mold_core.errors import InsufficientMemoryError, MoldError
from mold_core.hookspecs import Frames, Pipeline, Run
from mold_core.weights.out_of_memory import is_out_of_memory, release_cached
from mold_core.wire import GenerateRequest, Info, Preview, ProgressEvent

__all__ = ["generate_within_memory", "saying_out_of_memory"]

log = logging.getLogger("mold.engine")

_HINT = "use a smaller size, fewer frames or a smaller tag (mold list), or hold less in memory with --offload"


def generate_within_memory(
    pipeline: Pipeline,
    requests: Sequence[GenerateRequest],
    run: Run,
    *,
    most: int,
    device: str,
    make_room: Callable[[], object],
) -> list[Frames]:
    """Return the results of a pipeline, computing at most `most` requests at a time.

    When memory runs out, `make_room` unloads other models and the batch is halved. Raises InsufficientMemoryError
    when memory runs out for a single request.
    """
    results: list[Frames] = []
    done = batches_done = 0  # counted by requests, because a pipeline may return too few results
    tried_alone = False
    while done < len(requests):
        left = len(requests) - done
        batch = requests[done : done + most]
        batches = batches_done + -(-left // most)
        frames, problem = _attempt(pipeline, batch, _BatchRun(run, batches_done, batches, done))
        if problem is None:
            results += frames
            done += len(batch)
            batches_done += 1
            tried_alone = False
            continue
        # Outside of the exception handler, the error and with it every tensor of the failed attempt are released.
        make_room()
        release_cached(device)
        if len(batch) > 1:
            most = max(1, len(batch) // 2)
            run.report(Info(message=f"memory ran out for {len(batch)} images together; going on with {most} at a time"))
        elif tried_alone:
            raise InsufficientMemoryError(
                "there is not enough memory on %s: %s", device, MemoryError(problem), hint=_HINT
            )
        tried_alone = len(batch) == 1
        log.warning("memory ran out on %s: %s", device, problem)
    return results


@contextmanager
def saying_out_of_memory(what: str, device: str) -> Iterator[None]:
    """Convert an out-of-memory error to an InsufficientMemoryError that starts with `what`; free the memory it held."""
    problem = None
    try:
        yield
    except MoldError:
        raise
    except Exception as error:
        problem = _problem(error)
        if problem is None:
            raise
    if problem is not None:
        release_cached(device)
        raise InsufficientMemoryError(
            "%s: there is not enough memory on %s: %s", what, device, MemoryError(problem), hint=_HINT
        )


def _attempt(pipeline: Pipeline, requests: Sequence[GenerateRequest], run: Run) -> tuple[list[Frames], str | None]:
    """Return the results, or the reason why memory ran out."""
    try:
        return pipeline.generate(requests, run), None
    except MoldError:
        raise
    except Exception as error:
        problem = _problem(error)
        if problem is None:
            raise
        return [], problem


def _problem(error: Exception) -> str | None:
    """Return the first line of an out-of-memory error and release its tensors; None for any other error."""
    if not is_out_of_memory(error):
        return None
    traceback.clear_frames(error.__traceback__)
    return (str(error) or type(error).__name__).splitlines()[0]


@attrs.frozen
class _BatchRun:
    """The run of one of several batches: steps and previews are counted across all batches."""

    run: Run
    batch: int
    batches: int
    first: int

    def report(self, event: ProgressEvent) -> None:
        if isinstance(event, Preview):
            step = self.batch * event.total + event.step
            event = attrs.evolve(event, index=self.first + event.index, step=step, total=self.batches * event.total)
        self.run.report(event)

    def step(self, step: int, total: int, elapsed_ms: int) -> None:
        self.run.step(self.batch * total + step, self.batches * total, elapsed_ms)

    def check(self) -> None:
        self.run.check()
