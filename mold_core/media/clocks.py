"""Frames with presentation times, and their conversion to a constant frame rate."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import attrs

from mold_core.media.display import Display

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["TimedFrame", "at_constant_rate", "origin_of"]


@attrs.frozen(kw_only=True, eq=False)
class TimedFrame:
    """A decoded frame, shown from `start` to `end`, in seconds from the start of the file's video and audio.

    `interval` is the usual time between two frames of the file.
    """

    frame: Any
    start: Fraction
    end: Fraction
    interval: Fraction
    display: Display

    def image(self, smaller: int = 1) -> Image:
        """Return the frame as players show it, `smaller` times smaller per side."""
        return self.display.image(self.frame, smaller)


def origin_of(*streams: Any) -> Fraction:
    """Return the time in seconds at which the first of some PyAV streams starts.

    Times before zero are decoder lead-in, which players skip.
    """
    starts = [Fraction(stream.start_time) * stream.time_base for stream in streams if stream.start_time is not None]
    return max(min(starts, default=Fraction(0)), Fraction(0))


def at_constant_rate(frames: Iterator[TimedFrame], fps: Fraction) -> Iterator[TimedFrame]:
    """Yield the frame that is shown at each tick of a clock of `fps`. Frames may repeat or be dropped.

    A frame counts from half an interval before its time, so that small errors of the file's clock neither repeat nor
    drop a frame. The first frame is also shown before its time.
    """
    count, current = 0, None
    for frame in frames:
        slack = min(1 / fps, frame.interval) / 2
        while current is not None and count / fps + slack < frame.start:
            yield current
            count += 1
        current = frame
    if current is not None:
        for _ in range(max(round(current.end * fps), 1) - count):
            yield current
