"""The pool of decoder processes: one stays warm, and a second starts while it is busy."""

from __future__ import annotations

import atexit
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from hashlib import sha256
from math import inf
from time import monotonic
from typing import Any

from mold_core.errors import CancelledError, ValidationError
from mold_core.media.decoder.process import DecoderProcess, Part, Task

__all__ = ["Cancellation", "DecoderPool", "DecodersBusyError", "cancellable", "pool"]

_MOST = 2
_MAX_CACHED = 64


class DecodersBusyError(ValidationError):
    """No decoder became free in time. A retry with the same file may succeed."""


class Cancellation:
    """Cancels decoding for a caller that no longer waits. Thread-safe.

    `seconds` limits the time of all decoding from now.
    """

    def __init__(self, seconds: float = inf) -> None:
        self.deadline = monotonic() + seconds
        self._lock = threading.Lock()
        self._working: DecoderProcess | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """Kill the running decoder, and refuse more decoding."""
        with self._lock:
            self._cancelled = True
            if self._working is not None:
                self._working.kill()

    @contextmanager
    def using(self, process: DecoderProcess) -> Iterator[None]:
        """Let `cancel` kill this process during the block."""
        with self._lock:
            self.check()
            self._working = process
        try:
            yield
        finally:
            with self._lock:
                self._working = None

    def check(self) -> None:
        """Raise CancelledError once `cancel` was called."""
        if self._cancelled:
            raise CancelledError("reading media was cancelled")


_CURRENT: ContextVar[Cancellation | None] = ContextVar("mold_media_cancellation", default=None)


@contextmanager
def cancellable(cancellation: Cancellation) -> Iterator[None]:
    """Apply a cancellation to decoding in this block and thread."""
    token = _CURRENT.set(cancellation)
    try:
        yield
    finally:
        _CURRENT.reset(token)


class DecoderPool:
    """Runs tasks in decoder processes, which are started on demand and replaced after a crash."""

    def __init__(self, start: Callable[[], DecoderProcess] = DecoderProcess) -> None:
        self._start = start
        self._changed = threading.Condition()
        self._idle: list[DecoderProcess] = []
        self._in_use: set[DecoderProcess] = set()
        self._starting = 0
        self._closings = 0
        self._results: OrderedDict[tuple[bytes, str, str], Any] = OrderedDict()

    def warm(self) -> None:
        """Start a decoder if there is none, so that the first file does not wait for it."""
        with self._changed:
            missing = not (self._idle or self._in_use or self._starting)
            self._starting += missing
        if missing:
            self._give_back(self._started())

    def run(self, task: Task, take: Callable[[Part], object] | None = None) -> Any:
        """Run a task, pass the parts of its result to `take`, and return the rest.

        Raises as `DecoderProcess.parts` does, and ValidationError if no decoder became free in time.
        """
        cancellation = _CURRENT.get() or Cancellation()
        last = cancellation.deadline
        process = self._borrow(min(monotonic() + task.patience_s, last), task, cancellation)
        try:
            with cancellation.using(process):
                # The start of the process does not count towards the time limit of the file.
                return _drain(process.parts(task, min(monotonic() + task.wall_s, last)), take)
        finally:
            self._give_back(process)

    def run_once(self, task: Task) -> Any:
        """Return the result of a task without parts, from a cache if the same bytes were decoded recently.

        Several modules check the media of each request.
        """
        assert isinstance(task.source, bytes)
        key = sha256(task.source).digest(), task.name, repr(sorted(task.options.items()))
        with self._changed:
            if key in self._results:
                self._results.move_to_end(key)
                return self._results[key]
        result = self.run(task)
        with self._changed:
            self._results[key] = result
            if len(self._results) > _MAX_CACHED:
                self._results.popitem(last=False)
        return result

    def close(self) -> None:
        """End all decoders. Callers that wait for one get CancelledError. The pool can be used again."""
        with self._changed:
            self._closings += 1
            idle, self._idle = self._idle, []
            for process in self._in_use:
                process.kill()
            self._changed.notify_all()
        for process in idle:
            process.close()

    def _borrow(self, deadline: float, task: Task, cancellation: Cancellation) -> DecoderProcess:
        with self._changed:
            closings = self._closings
            while not self._idle and len(self._in_use) + self._starting >= _MOST:
                cancellation.check()
                if not self._changed.wait(min(max(deadline - monotonic(), 0), _LOOK_S)) and monotonic() >= deadline:
                    raise _busy(task)
                if self._closings != closings:
                    raise CancelledError("reading media was cancelled")
            while self._idle:
                process = self._idle.pop()
                if process.usable:
                    self._in_use.add(process)
                    return process
                process.close()  # it was killed while idle
            self._starting += 1
        return self._started()

    def _started(self) -> DecoderProcess:
        process: DecoderProcess | None = None
        try:
            process = self._start()
            return process
        finally:
            with self._changed:
                self._starting -= 1
                if process is not None:
                    self._in_use.add(process)
                self._changed.notify()

    def _give_back(self, process: DecoderProcess) -> None:
        with self._changed:
            self._in_use.discard(process)
            if process.usable:
                self._idle.append(process)
            elif process.alive:
                process.close()
            self._changed.notify()


_LOOK_S = 0.2
_POOL = DecoderPool()
atexit.register(_POOL.close)


def pool() -> DecoderPool:
    """Return the pool of this process."""
    return _POOL


def _busy(task: Task) -> DecodersBusyError:
    return DecodersBusyError(
        f"{task.subject} could not be read in time: other files are being decoded",
        field=task.field,
        hint="try again",
    )


def _drain(parts: Generator[Part, None, Any], take: Callable[[Part], object] | None) -> Any:
    with closing(parts):
        while True:
            try:
                part = next(parts)
            except StopIteration as end:
                return end.value
            if take is not None:
                take(part)
