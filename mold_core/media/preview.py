"""The small GIF that previews a video in lists and galleries."""

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
    """The frames of a video that its preview shows: every `every`-th, from number `first` on."""

    every: int
    first: int = 0

    @classmethod
    def of(cls, frames: int, fps: int) -> PreviewFrames:
        """Return the frames for a video: 8 per second, or fewer for a total of at most 120."""
        return cls(max(round(fps / _FPS), -(-frames // _MOST_FRAMES), 1))

    def after(self, frames: int) -> PreviewFrames:
        """Return the same, counted from a later frame."""
        return PreviewFrames(self.every, (self.first - frames) % self.every)

    def __contains__(self, index: int) -> bool:
        return index >= self.first and (index - self.first) % self.every == 0

    @staticmethod
    def small(image: Image) -> Image:
        """Return a frame for the preview: at most 256 pixels wide and high."""
        scale = min(1.0, _SIDE / max(image.size))
        size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
        return image.resize(size) if image.size != size else image


def preview_gif(frames: Iterable[Image], fps: Fraction) -> bytes:
    """Return a GIF of one or more frames of equal size."""
    buffer = BytesIO()
    writer: VideoWriter | None = None
    for frame in frames:
        if writer is None:
            writer = VideoWriter(buffer, "gif", width=frame.width, height=frame.height, fps=fps, shared_palette=True)
        writer.add(frame)
    if writer is None:
        raise ValueError("a preview needs at least one frame")
    writer.close()
    return buffer.getvalue()


def first_frame_png(image: Image) -> bytes:
    """Return the first frame of a video as a PNG."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
