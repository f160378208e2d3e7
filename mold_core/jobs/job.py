"""A job: one request in the engine, which any thread can watch and cancel."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Literal

import attrs

from mold_core.errors import CancelledError, MoldError
from mold_core.wire import Preview, ProgressEvent
from mold_core.wire.request import Result

if TYPE_CHECKING:
    from mold_core.catalog import ModelSpec

__all__ = ["Job", "JobState", "Prepared", "events_before"]

log = logging.getLogger("mold.engine")

JobState = Literal["queued", "running", "done", "failed", "cancelled"]

_FINAL: frozenset[JobState] = frozenset({"done", "failed", "cancelled"})

# The number of events kept for late readers. The largest possible job, a thousand images, has about as many.
# When there are more, the older half is dropped.
MAX_EVENTS = 20_000


@attrs.frozen(kw_only=True)
class Prepared:
    """A complete request, and what the engine needs to run it. Running it again gives the same result.

    `spec` is the model it needs, if any, and `load_bytes` the size of that model's files. Jobs with equal `batch_key`
    may run together as long as the sum of their `size` does not exceed the setting max_batch; None means alone.
    `device` is the only device that may run it; None means any. `warnings` say what was adjusted.
    """

    request: Any
    spec: ModelSpec | None = None
    load_bytes: int = 0
    batch_key: Hashable = None
    size: int = 1
    device: str | None = None
    warnings: tuple[str, ...] = ()


class Job(Generic[Result]):
    """One request, its state, its events and finally its result or error.

    `id`, `kind`, `prepared` (the complete request and how to run it) and `model` (if it has one) never change.
    A warning about a result that could not be saved may be added to `warnings` before the end. `created_at`,
    `started_at` and `finished_at` are in seconds since 1970. `files` are the names of its results in the gallery, once
    it is done. `attempts` counts how often this engine started it, `interruptions` how often an earlier engine was
    killed while it ran. A job that `runs_alone` is not batched with others.

    Every reader gets all events from the first one, so a late or reconnecting reader misses nothing; a very long job
    keeps at least its last 10,000 events. `on_finish` is called once, after the end, in the thread that ended the job.
    """

    def __init__(
        self,
        prepared: Prepared,
        *,
        kind: str = "generate",
        on_finish: Callable[[Job], object] | None = None,
        id: str | None = None,
        created_at: float | None = None,
    ) -> None:
        self.id = id or uuid.uuid4().hex
        self.kind = kind
        self.prepared = prepared
        spec, request = prepared.spec, prepared.request
        self.model: str | None = spec.name if spec is not None else getattr(request, "model", None)
        self.runs_alone = False
        self.warnings = prepared.warnings
        self.files: tuple[str, ...] = ()
        self.attempts = 0
        self.interruptions = 0
        self.created_at = time.time() if created_at is None else created_at
        self.started_at: float | None = None
        self.finished_at: float | None = None
        self._on_finish = on_finish
        self._changed = threading.Condition()
        self._state: JobState = "queued"
        self._sealed = False
        self._events: list[ProgressEvent] = []
        self._dropped = 0
        self._previews: dict[int, list[int]] = {}
        self._watchers: list[Callable[[], object]] = []
        self._result: Any = None
        self._fetch_result: Callable[[], Any] | None = None
        self._error: MoldError | None = None
        self._place: Callable[[Job], int] = lambda job: 0

    @property
    def request(self) -> Any:
        """The complete request."""
        return self.prepared.request

    @property
    def spec(self) -> ModelSpec | None:
        """The model that it needs, if any."""
        return self.prepared.spec

    @property
    def batch_key(self) -> Hashable:
        """Jobs with equal keys may be computed together; None means alone."""
        return None if self.runs_alone else self.prepared.batch_key

    @property
    def state(self) -> JobState:
        """The current state."""
        return self._state

    @property
    def finished(self) -> bool:
        """Whether the job is done, failed or cancelled."""
        return self._state in _FINAL

    @property
    def position(self) -> int:
        """Place in the queue, from 1; 0 when the job no longer waits."""
        return 0 if self._state != "queued" else self._place(self)

    @property
    def error(self) -> MoldError | None:
        """The error of a failed or cancelled job."""
        return self._error

    def to_json(self) -> dict[str, Any]:
        """Return a summary without the request and the result; times are in milliseconds since 1970."""
        summary: dict[str, Any] = {"id": self.id, "kind": self.kind, "state": self.state, "position": self.position}
        if self.model is not None:
            summary["model"] = self.model
        for name in ("created_at", "started_at", "finished_at"):
            moment = getattr(self, name)
            if moment is not None:
                summary[name] = int(moment * 1000)
        if self.warnings:
            summary["warnings"] = list(self.warnings)
        if self.files:
            summary["files"] = list(self.files)
        if self._error is not None:
            summary.update(self._error.to_json())
        return summary

    # --- watching ------------------------------------------------------------------------------------------------

    def events(self, start: int = 0, timeout_s: float | None = None) -> Iterator[ProgressEvent]:
        """Yield every event from number `start` on, waiting for new ones until the job is finished.

        With `timeout_s`, stop after that many seconds without a new event.
        """
        for _number, event in self.numbered_events(start, timeout_s):
            yield event

    def numbered_events(self, start: int = 0, timeout_s: float | None = None) -> Iterator[tuple[int, ProgressEvent]]:
        """Yield number and event like `events`. A reconnecting reader passes the number after its last event."""
        while True:
            new_events, ended = self._next_events(start, timeout_s)
            yield from new_events
            if ended or not new_events:
                return
            start = new_events[-1][0] + 1

    def watch(self, changed: Callable[[], object]) -> Callable[[], None]:
        """Call `changed` after every new event and after the end, for readers that must not block.

        It is called in the thread that made the change, and must not block. Call the returned function to stop.
        """
        with self._changed:
            self._watchers.append(changed)

        def stop() -> None:
            with self._changed:
                if changed in self._watchers:
                    self._watchers.remove(changed)

        return stop

    @property
    def event_count(self) -> int:
        """The number of the next event, or of the end of a finished job."""
        return self._dropped + len(self._events)

    def count_events_from(self, number: int) -> None:
        """Number the first event with `number`: earlier events belong to a previous server and are not kept."""
        self._dropped = number

    def numbered_so_far(self, start: int = 0) -> tuple[list[tuple[int, ProgressEvent]], bool]:
        """Return number and event like `events_so_far`, from the oldest kept event if `start` is no longer kept."""
        with self._changed:
            return self._since(start), self.finished

    def events_so_far(self, start: int = 0) -> tuple[list[ProgressEvent], bool]:
        """Return the existing events from number `start` on, and whether the job is finished."""
        with self._changed:
            return [event for _number, event in self._since(start)], self.finished

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the job is finished; False after a timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: self.finished, timeout_s)

    def result(self, timeout_s: float | None = None) -> Result:
        """Wait for the result and return it. Raises the job's error, or TimeoutError."""
        if not self.wait(timeout_s):
            raise TimeoutError(f"job {self.id} is still {self._state} after {timeout_s} s")
        if self._error is not None:
            raise self._error
        fetch = self._fetch_result
        result: Result = self._result if fetch is None else fetch()
        return result

    def cancel(self) -> bool:
        """Cancel the job now; running work stops at its next step. Returns False if the job had already ended.

        A job whose result is being saved counts as ended.
        """
        return self._finish("cancelled", error=CancelledError("the job was cancelled"))

    # --- called by the engine ------------------------------------------------------------------------------------

    def report(self, event: ProgressEvent) -> None:
        """Add an event; events after the end are dropped."""
        with self._changed:
            if self.finished:
                return
            if len(self._events) >= MAX_EVENTS:
                del self._events[: MAX_EVENTS // 2]
                self._dropped += MAX_EVENTS // 2
            if isinstance(event, Preview):
                self._outdate_previews(event)
            self._events.append(event)
            self._changed.notify_all()
            watchers = tuple(self._watchers)
        self._notify(watchers)

    def start(self) -> bool:
        """Mark the job as running; False if it was cancelled while it waited."""
        with self._changed:
            if self.finished:
                return False
            if self._state == "running":  # a job that runs in parts
                return True
            self._state = "running"
            self.started_at = time.time()
            self.attempts += 1
            self._changed.notify_all()
            return True

    def wait_again(self) -> bool:
        """Mark a running job as queued again; False if it has ended."""
        with self._changed:
            if self.finished:
                return False
            self._state = "queued"
            return True

    def seal(self) -> bool:
        """Reserve the right to end the job for the caller; False if it has ended or another caller has sealed it."""
        with self._changed:
            if self.finished or self._sealed:
                return False
            self._sealed = True
            return True

    def restore(self, state: JobState, error: MoldError | None, fetch_result: Callable[[], Any]) -> None:
        """Restore the final state of a finished job; each call of `result` calls `fetch_result`."""
        self._state, self._error, self._fetch_result = state, error, fetch_result

    def finish(self, result: Any) -> bool:
        """End the job with its result; False if it had already ended."""
        self._sealed = False
        return self._finish("done", result=result)

    def fail(self, error: MoldError) -> bool:
        """End the job with an error; False if it had already ended."""
        self._sealed = False
        return self._finish("cancelled" if isinstance(error, CancelledError) else "failed", error=error)

    def _finish(self, state: JobState, *, result: Any = None, error: MoldError | None = None) -> bool:
        with self._changed:
            if self.finished or self._sealed:
                return False
            self._state, self._result, self._error = state, result, error
            self.finished_at = time.time()
            self._changed.notify_all()
            watchers = tuple(self._watchers)
        self._notify(watchers)
        if self._on_finish is not None:
            self._on_finish(self)
        return True

    def _outdate_previews(self, preview: Preview) -> None:
        """Replace the image of earlier previews with this one, so that one preview per image is held in memory.

        Current readers have already seen the earlier ones; late readers need only the newest.
        """
        numbers = self._previews.setdefault(preview.index, [])
        for number in numbers:
            before = self._events[number - self._dropped] if number >= self._dropped else None
            if isinstance(before, Preview):
                self._events[number - self._dropped] = attrs.evolve(before, image=preview.image)
        numbers.append(self._dropped + len(self._events))

    def _notify(self, watchers: tuple[Callable[[], object], ...]) -> None:
        for changed in watchers:
            try:
                changed()
            except Exception:
                log.exception("a watcher of job %s failed", self.id)

    def _since(self, start: int) -> list[tuple[int, ProgressEvent]]:
        start = max(start, self._dropped)
        return list(enumerate(self._events[start - self._dropped :], start))

    def _next_events(self, start: int, timeout_s: float | None) -> tuple[list[tuple[int, ProgressEvent]], bool]:
        with self._changed:
            self._changed.wait_for(lambda: self._dropped + len(self._events) > start or self.finished, timeout_s)
            return self._since(start), self.finished


def events_before(created_at: float, until: float | None) -> int:
    """Return a number above that of every event of a job up to `until`: events are rarer than one per millisecond.

    The events of an earlier engine are not kept. Those of this engine start at this number, so no number is used twice.
    """
    return max(int(((until or created_at) - created_at) * 1000), 0) + 1
