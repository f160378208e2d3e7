"""A job: one request on its way through the engine, watched and cancelled from any thread."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Literal

from mold_core.errors import CancelledError, MoldError
from mold_core.wire import GenerateRequest, ProgressEvent

__all__ = ["Job", "JobState"]

JobState = Literal["queued", "running", "done", "failed", "cancelled"]

_FINAL: frozenset[JobState] = frozenset({"done", "failed", "cancelled"})


class Job:
    """One request, its state, its events and at the end its result or error.

    Every reader of `events()` gets all events from the first on, so a late or returning reader misses nothing.
    `on_finish` is called once, after the end, in the thread that ended the job.
    """

    def __init__(
        self,
        request: GenerateRequest,
        *,
        kind: str = "generate",
        warnings: tuple[str, ...] = (),
        on_finish: Callable[[Job], object] | None = None,
    ) -> None:
        self.id = uuid.uuid4().hex
        self.kind = kind
        self.request = request
        self.warnings = warnings
        self.created_at = time.time()
        self._on_finish = on_finish
        self._changed = threading.Condition()
        self._state: JobState = "queued"
        self._events: list[ProgressEvent] = []
        self._watchers: list[Callable[[], object]] = []
        self._result: Any = None
        self._error: MoldError | None = None

    @property
    def state(self) -> JobState:
        """Where the job is in its life."""
        return self._state

    @property
    def finished(self) -> bool:
        """Whether the job is done, failed or cancelled."""
        return self._state in _FINAL

    @property
    def error(self) -> MoldError | None:
        """What went wrong, for a failed or cancelled job."""
        return self._error

    def events(self, start: int = 0, timeout_s: float | None = None) -> Iterator[ProgressEvent]:
        """Yield every event from number `start` on, waiting for new ones until the job is finished.

        With `timeout_s`, stop when no new event came for that long.
        """
        while True:
            fresh, ended = self._next_events(start, timeout_s)
            yield from fresh
            start += len(fresh)
            if ended or not fresh:
                return

    def watch(self, changed: Callable[[], object]) -> Callable[[], None]:
        """Call `changed` after every new event and after the end, for readers that must not block.

        It is called in the thread that made the change, and must return at once. The function returned ends this.
        """
        with self._changed:
            self._watchers.append(changed)

        def stop() -> None:
            with self._changed:
                if changed in self._watchers:
                    self._watchers.remove(changed)

        return stop

    def events_so_far(self, start: int = 0) -> tuple[list[ProgressEvent], bool]:
        """Return the events from number `start` on that have happened, and whether no more will come."""
        with self._changed:
            return self._events[start:], self.finished

    def _next_events(self, start: int, timeout_s: float | None) -> tuple[list[ProgressEvent], bool]:
        with self._changed:
            self._changed.wait_for(lambda: len(self._events) > start or self.finished, timeout_s)
            return self._events[start:], self.finished

    def result(self, timeout_s: float | None = None) -> Any:
        """Return what the job made, waiting for it. Raises the job's error, or TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.finished, timeout_s):
                raise TimeoutError(f"job {self.id} is still {self._state} after {timeout_s} s")
        if self._error is not None:
            raise self._error
        return self._result

    def cancel(self) -> bool:
        """End the job now; work that is under way stops at its next step. Returns False if it had already ended."""
        return self._finish("cancelled", error=CancelledError("the job was cancelled"))

    # What follows is called by the engine.

    def report(self, event: ProgressEvent) -> None:
        """Add an event; events after the end are dropped."""
        with self._changed:
            if self.finished:
                return
            self._events.append(event)
            self._changed.notify_all()
            watchers = tuple(self._watchers)
        for changed in watchers:
            changed()

    def start(self) -> bool:
        """Mark the job as running; False if it was cancelled while it waited."""
        with self._changed:
            if self.finished:
                return False
            self._state = "running"
            self._changed.notify_all()
            return True

    def finish(self, result: Any) -> bool:
        """End the job with its result; False if it had already ended."""
        return self._finish("done", result=result)

    def fail(self, error: MoldError) -> bool:
        """End the job with an error; False if it had already ended."""
        return self._finish("cancelled" if isinstance(error, CancelledError) else "failed", error=error)

    def _finish(self, state: JobState, *, result: Any = None, error: MoldError | None = None) -> bool:
        with self._changed:
            if self.finished:
                return False
            self._state, self._result, self._error = state, result, error
            self._changed.notify_all()
            watchers = tuple(self._watchers)
        for changed in watchers:
            changed()
        if self._on_finish is not None:
            self._on_finish(self)
        return True
