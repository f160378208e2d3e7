"""A generated video, and the fields of requests that only videos have."""

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
    """An image that the video shows at a specified frame."""

    frame: int = wire_field("Index of the frame, from 0.", minimum=0, maximum=100_000)
    image: bytes = wire_field("PNG or JPEG file.", min_length=1)


@attrs.frozen(kw_only=True)
class TimeRange:
    """A time range of a video."""

    start_seconds: float = wire_field("Start in seconds.", minimum=0, maximum=100_000)
    end_seconds: float = wire_field("End in seconds.", minimum=0, maximum=100_000)


@attrs.frozen(kw_only=True)
class VideoData(VideoFile):
    """A generated video: an encoded file in `data`. Notebooks display it with a player."""

    data: bytes = wire_field("The encoded file.")
    format: Literal["mp4", "gif", "apng", "webp"] = wire_field("File format.")
    width: int = wire_field("Width in pixels.")
    height: int = wire_field("Height in pixels.")
    frames: int = wire_field("Number of frames.")
    fps: int = wire_field("Frames per second.")
    thumbnail: bytes | None = wire_field("PNG of the first frame.", default=None)
    gif_preview: bytes | None = wire_field("Small animated GIF of the video.", default=None)
    has_audio: bool = wire_field("Whether it has an audio track.", default=False)
    duration_ms: int | None = wire_field("Duration in milliseconds.", default=None)
    audio_sample_rate: int | None = wire_field("Audio sample rate in Hz.", default=None)
    audio_channels: int | None = wire_field("Number of audio channels.", default=None)

    def __repr__(self) -> str:
        return f"<{self.format} video, {self.width}x{self.height}, {self.frames} frames, {len(self.data):,} bytes>"
