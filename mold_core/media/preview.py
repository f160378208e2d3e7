"""The small GIF that stands for a video in lists and galleries."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from io import BytesIO
from typing import TYPE_CHECKING

import attrs

from mold_core.media.video import VideoWriter

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PreviewFrames", "first_frame_png", "preview_gif"]

_SIDE = 256
_FPS = 8
_MOST_FRAMES = 120


@attrs.frozen
class PreviewFrames:
    """Which frames of a video are shown: every `every`-th, from number `first` on."""

    every: int
    first: int = 0

    @classmethod
    def of(cls, frames: int, fps: int) -> PreviewFrames:
        """Return those of a video of so many frames: 8 a second, or as many fewer as keep it to 120 in all."""
        return cls(max(round(fps / _FPS), -(-frames // _MOST_FRAMES), 1))

    def after(self, frames: int) -> PreviewFrames:
        """Return the same as seen from a part that begins after so many frames."""
        return PreviewFrames(self.every, (self.first - frames) % self.every)

    def __contains__(self, index: int) -> bool:
        return index >= self.first and (index - self.first) % self.every == 0

    @staticmethod
    def small(image: Image) -> Image:
        """Return a frame as it is shown: at most 256 pixels wide and high."""
        scale = min(1.0, _SIDE / max(image.size))
        size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
        return image.resize(size) if image.size != size else image


def preview_gif(frames: Iterable[Image], fps: Fraction) -> bytes:
    """Return a GIF of frames of equal size, one or more."""
    made = BytesIO()
    writer: VideoWriter | None = None
    for frame in frames:
        if writer is None:
            writer = VideoWriter(made, "gif", width=frame.width, height=frame.height, fps=fps, shared_palette=True)
        writer.add(frame)
    if writer is None:
        raise ValueError("a preview needs at least one frame")
    writer.close()
    return made.getvalue()


def first_frame_png(image: Image) -> bytes:
    """Return the first frame of a video as a PNG."""
    made = BytesIO()
    image.save(made, "PNG")
    return made.getvalue()
