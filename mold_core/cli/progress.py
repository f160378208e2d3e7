"""The progress line on stderr: what is being done, how far it is, and how long it will take."""

from __future__ import annotations

import shutil
import sys
from time import monotonic
from typing import TextIO

import click

from mold_core.wire import CacheHit, DenoiseStep, Info, ProgressEvent, Queued, StageDone, StageStart, WeightLoad

__all__ = ["ProgressLine"]

_BAR_WIDTH = 24
_REDRAW_S = 0.05


class ProgressLine:
    """Reads a job's events and draws one line that changes in place; on anything but a terminal it only says Infos."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._drawn = False
        self._last_draw = 0.0
        self._step_seconds: list[float] = []

    def __call__(self, event: ProgressEvent) -> None:
        """Show an event."""
        if isinstance(event, Info):
            self.clear()
            click.echo(f"{click.style('note:', fg='yellow')} {event.message}", file=self._stream, err=True)
        elif self._live:
            text = self._describe(event)
            if text:
                self._draw(text, force=not isinstance(event, DenoiseStep | WeightLoad) or _is_last(event))

    def clear(self) -> None:
        """Take the line off the screen."""
        if self._drawn:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()
            self._drawn = False

    def _describe(self, event: ProgressEvent) -> str | None:
        match event:
            case Queued(position=position):
                return f"waiting, number {position} in the queue" if position > 1 else None
            case StageStart(name=name):
                return f"{name} …"
            case WeightLoad(bytes_loaded=done, bytes_total=total, component=component):
                return f"{_bar(done, total)} loading {component}"
            case DenoiseStep(step=step, total=total, elapsed_ms=elapsed_ms):
                self._step_seconds.append(elapsed_ms / 1000)
                left = (total - step) * sum(self._step_seconds) / len(self._step_seconds)
                return f"{_bar(step, total)} step {step}/{total}  {_duration(left)} left"
            case CacheHit() | StageDone():
                return None
        return None

    def _draw(self, text: str, *, force: bool) -> None:
        if not force and monotonic() - self._last_draw < _REDRAW_S:
            return
        self._last_draw = monotonic()
        width = shutil.get_terminal_size().columns - 1
        self._stream.write("\r\x1b[2K" + text[:width])
        self._stream.flush()
        self._drawn = True


def _is_last(event: ProgressEvent) -> bool:
    return isinstance(event, DenoiseStep) and event.step == event.total


def _bar(done: int, total: int) -> str:
    filled = round(_BAR_WIDTH * done / max(total, 1))
    return "━" * filled + "─" * (_BAR_WIDTH - filled)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
