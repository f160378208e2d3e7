"""Detects that a worker process is stopped, hangs, or does not react to a cancellation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event
from time import monotonic
from typing import Any

import attrs

from mold_core.catalog import ModelSpec
from mold_core.engine.worker.pulse import Pulse
from mold_core.settings import Settings

__all__ = ["Call", "Vigil", "call_for"]

_TICK_S = 0.25

# Time allowed between two signs of progress in addition to the setting, sized for a slow machine: reading a model from
# a network disk, and a step of a large model on a CPU, during which a third-party network may report no progress.
_BYTES_PER_SECOND = 10_000_000
_SECONDS_PER_PIXEL_AND_STEP = 20e-6


@attrs.frozen(kw_only=True)
class Call:
    """A running call: its number, and how many seconds it may run without a sign of progress."""

    number: int
    stall_s: float


def call_for(
    number: int, settings: Settings, spec: ModelSpec | None = None, requests: Sequence[Any] = (), *, load: bool = False
) -> Call:
    """Return a call whose time limit grows with its work: the bytes to `load`, and pixels, frames and steps."""
    load_s = spec.size_bytes / _BYTES_PER_SECOND if spec is not None and load else 0.0
    compute_s = sum(map(_pixel_steps, requests)) * _SECONDS_PER_PIXEL_AND_STEP
    return Call(number=number, stall_s=settings.worker_stall_s + load_s + compute_s)


def _pixel_steps(request: Any) -> int:
    count = 1
    for name in ("width", "height", "frames", "steps"):
        count *= getattr(request, name, None) or 1
    return count


class Vigil:
    """Checks a worker process periodically, until it finds a reason to kill it."""

    def __init__(self, pulse: Pulse, settings: Settings, call: Callable[[], Call | None]) -> None:
        """`call` returns the current call of the process, if any."""
        self._pulse = pulse
        self._settings = settings
        self._call = call
        self._seen: tuple[int, int, int] = (0, 0, 0)
        self._silent_s = self._stalled_s = self._cancelled_s = 0.0

    def keep(self, over: Event) -> str | None:
        """Return what is wrong with the process, as a phrase that follows its name; None when `over` is set."""
        last = monotonic()
        while not over.wait(_TICK_S):
            now = monotonic()
            # Limit the elapsed time: if this process was stopped or starved of CPU too, silence proves nothing.
            reason = self._look(min(now - last, 2 * _TICK_S))
            if reason is not None:
                return reason
            last = now
        return None

    def _look(self, elapsed_s: float) -> str | None:
        pulse, call, settings = self._pulse, self._call(), self._settings
        number = call.number if call is not None else 0
        beats, progressed, before = self._seen
        self._seen = pulse.beats, pulse.progressed, number
        alive, progressing = self._seen[0] != beats, self._seen[1] != progressed or number != before
        self._silent_s = 0.0 if alive else self._silent_s + elapsed_s
        self._stalled_s = 0.0 if progressing or call is None else self._stalled_s + elapsed_s
        cancelled = number and pulse.cancelled == pulse.begun == number
        self._cancelled_s = self._cancelled_s + elapsed_s if cancelled else 0.0
        if self._silent_s > settings.worker_silence_s:
            return f"gave no sign of life for {settings.worker_silence_s:g} s"
        if call is not None and self._stalled_s > call.stall_s:
            return f"made no progress for {call.stall_s:.0f} s"
        if self._cancelled_s > settings.worker_cancel_s:
            return f"went on for {settings.worker_cancel_s:g} s after it was cancelled"
        return None
