"""The progress line on standard error: current stage, progress, and estimated time left."""

from __future__ import annotations

import os
import shutil
import sys
from collections import deque
from time import monotonic
from typing import TextIO

from mold_core.cli.output import echo, style
from mold_core.text import readable_size, visible
from mold_core.wire import (
    CacheHit,
    ChainDenoiseStep,
    ChainStageStart,
    ChainStart,
    DenoiseStep,
    DownloadDone,
    DownloadProgress,
    Info,
    ProgressEvent,
    Queued,
    StageDone,
    StageStart,
    Stitching,
    WeightLoad,
)

__all__ = ["ProgressLine", "duration", "progress_bar"]

_BAR_WIDTH = 24
_REDRAW_S = 0.05
_RATE_OVER_S = 10.0


class ProgressLine:
    """Draws a job's events as a line that is updated in place; for a chain two lines, for the video and the clip.

    If standard error is not a terminal, only messages and finished downloads are printed.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._drawn = 0
        self._last_draw = 0.0
        self._step_seconds: list[float] = []
        self._stages = 1
        self._stage_began = 0.0
        self._downloaded: deque[tuple[float, int]] = deque()
        self._files: dict[int, DownloadProgress] = {}

    def __call__(self, event: ProgressEvent) -> None:
        """Show an event."""
        if isinstance(event, Info):
            self.clear()
            echo(f"{style('note:', fg='yellow')} {event.message}", file=self._stream, err=True)
        elif isinstance(event, DownloadDone):
            self.clear()
            self._files.pop(event.file_index, None)
            if not self._files:
                self._downloaded.clear()
            mark = style("✓", fg="green")
            echo(f"{mark} {event.file_index}/{event.total_files} {event.filename}", file=self._stream, err=True)
        elif self._live:
            text = self._describe(event)
            if text:
                self._draw(text, force=not isinstance(event, DenoiseStep | WeightLoad) or _is_last(event))

    def clear(self) -> None:
        """Erase the lines."""
        if self._drawn:
            self._stream.write("\r\x1b[2K" + "\x1b[A\x1b[2K" * (self._drawn - 1))
            self._stream.flush()
            self._drawn = 0

    def _describe(self, event: ProgressEvent) -> str | None:
        match event:
            case Queued(position=position):
                return f"waiting, number {position} in the queue" if position > 1 else None
            case StageStart(name=name):
                return f"{visible(name)} …"
            case WeightLoad(bytes_loaded=done, bytes_total=total, component=component):
                return f"{progress_bar(done, total)} loading {visible(component)}"
            case DenoiseStep(step=step, total=total, elapsed_ms=elapsed_ms):
                self._step_seconds.append(elapsed_ms / 1000)
                left = (total - step) * sum(self._step_seconds) / len(self._step_seconds)
                return f"{progress_bar(step, total)} step {step}/{total}  {duration(left)} left"
            case DownloadProgress():
                self._files[event.file_index] = event
                whole = _download(event, self._bytes_per_s(event.batch_bytes_downloaded), _columns())
                return whole if len(self._files) == 1 else "\n".join([whole, *map(_file, self._files.values())])
            case ChainStart(stage_count=stages):
                self._stages = stages
                return None
            case ChainStageStart(stage_idx=index):
                self._stage_began = monotonic()
                return f"{self._whole(index, 0, 1)}\n{progress_bar(0, 1)} …"
            case ChainDenoiseStep():
                return self._clip(event)
            case Stitching(total_frames=frames):
                return f"joining {self._stages} clips, {frames} frames …"
            case CacheHit() | StageDone():
                return None
        return None

    def _clip(self, event: ChainDenoiseStep) -> str:
        """Return the progress of a chain, in steps of all its clips, and below it the progress of the clip."""
        left = (self._stages - event.stage_idx) * event.total - event.step
        seconds = (monotonic() - self._stage_began) / event.step
        return (
            f"{self._whole(event.stage_idx, event.step, event.total)}  {duration(left * seconds)} left\n"
            f"{progress_bar(event.step, event.total)} step {event.step}/{event.total}"
        )

    def _whole(self, index: int, step: int, total: int) -> str:
        return f"{progress_bar(index * total + step, self._stages * total)} clip {index + 1}/{self._stages}"

    def _draw(self, text: str, *, force: bool) -> None:
        if not force and monotonic() - self._last_draw < _REDRAW_S:
            return
        self._last_draw = monotonic()
        lines = text.split("\n")
        self.clear()
        self._stream.write("\r\x1b[2K" + "\n".join(line[: _columns()] for line in lines))
        self._stream.flush()
        self._drawn = len(lines)

    def _bytes_per_s(self, so_far: int) -> float:
        """Return the speed over the last seconds; 0 while it is unknown."""
        now = monotonic()
        self._downloaded.append((now, so_far))
        while now - self._downloaded[0][0] > _RATE_OVER_S and len(self._downloaded) > 2:
            self._downloaded.popleft()
        began, bytes_then = self._downloaded[0]
        return max(0.0, (so_far - bytes_then) / (now - began)) if now > began else 0.0


def _columns() -> int:
    # The width of standard error, because standard output may be a file. The last columns stay empty: some terminals
    # wrap when the last column is written, and Ctrl-C prints ^C.
    try:
        columns = os.get_terminal_size(2).columns
    except OSError:
        columns = 0
    return (columns or shutil.get_terminal_size().columns) - 3


def _download(event: DownloadProgress, bytes_per_s: float, columns: int) -> str:
    """Return the progress of a download: with bar, speed and file on a wide terminal, as figures on a narrow one."""
    done, total = event.batch_bytes_downloaded, event.batch_bytes_total
    wide = columns >= 60
    bar = progress_bar(done, total, _BAR_WIDTH if columns >= 90 else _BAR_WIDTH // 2) + " " if wide else ""
    if not total:
        return f"{readable_size(done)}  {event.file_index}/{event.total_files} {visible(event.filename)}"
    so_far, unit = readable_size(done).rsplit(" ", 1)
    of_all = readable_size(total)
    so_far = so_far if of_all.split()[1] == unit else f"{so_far} {unit}"
    text = f"{bar}{100 * done // total:3d} %  {so_far} of {of_all}"
    if bytes_per_s and wide:
        text += f"  {readable_size(int(bytes_per_s))}/s"
    if bytes_per_s:
        text += f"  {duration((total - done) / bytes_per_s)}" + (" left" if wide else "")
    return f"{text}  {event.file_index}/{event.total_files} {visible(event.filename)}" if wide else text


def _file(event: DownloadProgress) -> str:
    """Return how far one of several files is."""
    done, total = event.bytes_downloaded, event.bytes_total
    share = f"{100 * done // total:3d} %" if total else readable_size(done)
    return f"{progress_bar(done, total, _BAR_WIDTH // 2)} {share}  {event.file_index}  {visible(event.filename)}"


def _is_last(event: ProgressEvent) -> bool:
    return isinstance(event, DenoiseStep) and event.step == event.total


def progress_bar(done: int, total: int, width: int = _BAR_WIDTH) -> str:
    """Return a progress bar of `width` characters."""
    filled = round(width * done / max(total, 1))
    return "━" * filled + "─" * (width - filled)


def duration(seconds: float) -> str:
    """Return a duration as text, such as 4.2 s or 3 min 05 s."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
