"""Join videos: copy the packets of MP4 files, encode other formats from their frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mold_core.media.metadata import OutputMetadata
from mold_core.media.video import (
    MP4_OPTIONS,
    PARAMETERS_TAG,
    SoundStream,
    VideoFormat,
    VideoWriter,
    decode_frames,
    reader_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

__all__ = ["frames_of_videos", "join_videos"]


def join_videos(
    file: BinaryIO,
    format: VideoFormat,
    videos: Sequence[Path],
    *,
    fps: int,
    sounds: Iterator[NDArray[Any]] | None = None,
    sample_rate: int | None = None,
    metadata: OutputMetadata | None = None,
) -> None:
    """Write one video in `format` from `videos`: MP4 files of `VideoWriter` with equal size and frame rate.

    `sounds` yields the audio of each, float32 [channels, n]. At most one file is in memory at a time.
    """
    if format == "mp4":
        _copy(file, videos, fps, sounds, sample_rate, metadata)
        return
    frames = frames_of_videos(videos)
    first = next(frames)
    with VideoWriter(file, format, width=first.width, height=first.height, fps=fps) as video:
        video.add(first)
        for frame in frames:
            video.add(frame)


def frames_of_videos(videos: Sequence[Path]) -> Iterator[Image]:
    """Yield the frames of all files in order."""
    for video_file in videos:
        with video_file.open("rb") as file:
            yield from decode_frames(file)


def _copy(
    file: BinaryIO,
    videos: Sequence[Path],
    fps: int,
    sounds: Iterator[NDArray[Any]] | None,
    sample_rate: int | None,
    metadata: OutputMetadata | None,
) -> None:
    import av

    with av.open(file, "w", format="mp4", options=MP4_OPTIONS, io_open=reader_of(file)) as out:
        if metadata is not None:
            out.metadata[PARAMETERS_TAG] = metadata.to_json()
        video: Any = None
        sound: SoundStream | None = None
        frames = 0
        for video_file in videos:
            with video_file.open("rb") as source, av.open(source, "r", format="mp4") as container:
                packets = container.streams.video[0]
                if video is None:
                    video = out.add_stream_from_template(packets)
                    video.time_base = packets.time_base
                    sound = SoundStream(out, sample_rate, 2) if sounds is not None and sample_rate else None
                frames += _copy_packets(out, container, packets, video, Fraction(frames, fps))
            if sounds is not None and sound is not None:
                sound.push(next(sounds))
        if sound is not None:
            sound.finish()


def _copy_packets(out: Any, container: Any, source: Any, target: Any, offset_s: Fraction) -> int:
    """Append the packets of a file. Return their number."""
    shift, count = round(offset_s / source.time_base), 0
    for packet in container.demux(source):
        if packet.dts is None:  # ffmpeg marks the end with an empty packet
            continue
        packet.pts += shift
        packet.dts += shift
        packet.stream = target
        out.mux(packet)
        count += 1
    return count
