"""A finished video, and the parts of a request that only videos have."""

from __future__ import annotations

from typing import Literal

import attrs

from mold_core.wire.fields import wire_field
from mold_core.wire.media_file import VideoFile

__all__ = ["Keyframe", "TimeRange", "VideoData", "VideoPipeline"]

VideoPipeline = Literal[
    "one-stage", "two-stage", "two-stage-hq", "distilled", "ic-lora", "keyframe", "a2-vid", "retake"
]


@attrs.frozen(kw_only=True)
class Keyframe:
    """An image that the video shows at one of its frames."""

    frame: int = wire_field("Number of the frame, from 0.", minimum=0, maximum=100_000)
    image: bytes = wire_field("PNG or JPEG.", min_length=1)


@attrs.frozen(kw_only=True)
class TimeRange:
    """A stretch of a video."""

    start_seconds: float = wire_field("Where it begins, in seconds.", minimum=0, maximum=100_000)
    end_seconds: float = wire_field("Where it ends, in seconds.", minimum=0, maximum=100_000)


@attrs.frozen(kw_only=True)
class VideoData(VideoFile):
    """One finished video: the whole file in `data`. Notebooks play it."""

    data: bytes = wire_field("The encoded file.")
    format: Literal["mp4", "gif", "apng", "webp"] = wire_field("Its format.")
    width: int = wire_field("Width in pixels.")
    height: int = wire_field("Height in pixels.")
    frames: int = wire_field("Number of frames.")
    fps: int = wire_field("Frames per second.")
    thumbnail: bytes | None = wire_field("PNG of the first frame.", default=None)
    gif_preview: bytes | None = wire_field("Small GIF of the whole.", default=None)
    has_audio: bool = wire_field("Whether it has sound.", default=False)
    duration_ms: int | None = wire_field("Length in milliseconds.", default=None)
    audio_sample_rate: int | None = wire_field("Samples of sound per second.", default=None)
    audio_channels: int | None = wire_field("Channels of sound.", default=None)

    def __repr__(self) -> str:
        return f"<{self.format} video, {self.width}x{self.height}, {self.frames} frames, {len(self.data):,} bytes>"
