"""Parts of a video made one: MP4 packets are copied as they are, other formats are encoded from the parts' frames."""

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

__all__ = ["frames_of_parts", "join_parts"]


def join_parts(
    file: BinaryIO,
    format: VideoFormat,
    parts: Sequence[Path],
    *,
    fps: int,
    sounds: Iterator[NDArray[Any]] | None = None,
    sample_rate: int | None = None,
    metadata: OutputMetadata | None = None,
) -> None:
    """Write one video of `format` made of `parts`, MP4 files by `VideoWriter` of equal size and rate.

    `sounds` yields the sound of each part, float32 [channels, n]. One part is in memory at a time, less for MP4.
    """
    if format == "mp4":
        _copy(file, parts, fps, sounds, sample_rate, metadata)
        return
    frames = frames_of_parts(parts)
    first = next(frames)
    with VideoWriter(file, format, width=first.width, height=first.height, fps=fps) as video:
        video.add(first)
        for frame in frames:
            video.add(frame)


def frames_of_parts(parts: Sequence[Path]) -> Iterator[Image]:
    """Yield the frames of all parts in order."""
    for part in parts:
        with part.open("rb") as file:
            yield from decode_frames(file)


def _copy(
    file: BinaryIO,
    parts: Sequence[Path],
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
        for part in parts:
            with part.open("rb") as source, av.open(source, "r", format="mp4") as container:
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
    """Copy a part's packets behind those that are there, and return how many they were."""
    shift, count = round(offset_s / source.time_base), 0
    for packet in container.demux(source):
        if packet.dts is None:  # ffmpeg's way to say that there are no more
            continue
        packet.pts += shift
        packet.dts += shift
        packet.stream = target
        out.mux(packet)
        count += 1
    return count
