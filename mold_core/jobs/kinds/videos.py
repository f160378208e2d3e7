"""Encodes the frames and the sound of one video to a file."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

from mold_core.disk import is_full
from mold_core.hookspecs import Frames, Sound
from mold_core.media.metadata import OutputMetadata, embed_metadata
from mold_core.media.preview import PreviewFrames, first_frame_png, preview_gif
from mold_core.media.video import VideoFormat, VideoWriter
from mold_core.unfinished import unfinished
from mold_core.wire import GenerateRequest, VideoData

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["encode_video"]

# A file system in memory, on Linux.
_IN_MEMORY = Path("/dev/shm")


def encode_video(request: GenerateRequest, frames: Frames, metadata: OutputMetadata | None) -> VideoData:
    """Return a video in the format that a complete request names, with its first frame and, on request, a preview."""
    format = cast(VideoFormat, request.output_format)
    width, height = frames.images[0].size
    fps, count = round(frames.fps or 1), len(frames.images)
    sound = frames.sound if request.enable_audio and format == "mp4" else None
    encode = partial(_encoded, request, frames, metadata, sound)
    try:
        data = encode(None)
    except OSError as error:
        if not (is_full(error) and _IN_MEMORY.is_dir()):
            raise
        data = encode(_IN_MEMORY)  # the disk for temporary files is full, but the frames are still in memory
    if metadata is not None and format != "mp4":
        data = embed_metadata(data, metadata)
    gif = _preview(frames.images, fps) if request.gif_preview else None
    return VideoData(
        data=data,
        format=format,
        width=width,
        height=height,
        frames=count,
        fps=fps,
        thumbnail=first_frame_png(frames.images[0]),
        gif_preview=gif,
        has_audio=sound is not None,
        duration_ms=count * 1000 // fps,
        audio_sample_rate=sound.sample_rate if sound else None,
        audio_channels=len(sound.samples) if sound else None,
    )


def _encoded(
    request: GenerateRequest,
    frames: Frames,
    metadata: OutputMetadata | None,
    sound: Sound | None,
    scratch: Path | None,
) -> bytes:
    """Return the file of a video, written in a folder below `scratch`, or below the system's temporary folder."""
    format = cast(VideoFormat, request.output_format)
    width, height = frames.images[0].size
    fps, count = round(frames.fps or 1), len(frames.images)
    with TemporaryDirectory(prefix="mold-video-", dir=scratch) as folder, unfinished(folder):
        path = Path(folder) / "video"
        with (
            path.open("w+b") as file,
            VideoWriter(
                file,
                format,
                width=width,
                height=height,
                fps=fps,
                sample_rate=sound.sample_rate if sound else None,
                channels=len(sound.samples) if sound else 2,
                metadata=metadata,
            ) as video,
        ):
            for image in frames.images:
                video.add(image)
            if sound:
                video.add_sound(sound.samples[:, : round(count * sound.sample_rate / fps)])
        return path.read_bytes()


def _preview(images: Sequence[Image], fps: int) -> bytes:
    selection = PreviewFrames.of(len(images), fps)
    selected = images[selection.first :: selection.every]
    return preview_gif(map(selection.small, selected), Fraction(fps, selection.every))
