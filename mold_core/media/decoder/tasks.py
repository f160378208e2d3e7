"""The tasks of the decoder process: read properties, frames, samples and thumbnails of untrusted files within limits.

Every task receives the file and its options. It returns a JSON value, and passes large data to `emit` in parts. It
raises ValidationError for a file that it refuses; any other exception counts as a damaged file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from io import BytesIO
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs

from mold_core.errors import ValidationError
from mold_core.media.animations import check_animation
from mold_core.media.limits import MAX_ANIMATION_PIXELS, check_frame, check_total

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

__all__ = ["TASKS", "Emit", "Task"]

# Takes the bytes of a part and their description.
Emit = Callable[[Any, Mapping[str, Any]], None]
Task = Callable[..., Any]

_LARGEST_STILL_BYTES = 256 * 1024 * 1024
_ANIMATIONS = ("GIF", "PNG", "WEBP")


def probe_video(file: BinaryIO, emit: Emit, *, name: str | None, strict: bool) -> dict[str, Any]:
    """Return the properties and the metadata of an MP4. `strict` checks it like a file that is decoded completely."""
    from mold_core.media.mp4_index import read_mp4_index
    from mold_core.media.video_reading import probe_video, read_video_metadata, timed_frames

    if strict:
        index = read_mp4_index(file, name)
        check_total(index.width, index.height, index.frames, name)
    info = probe_video(file, name=name)
    if strict:
        check_total(info.width, info.height, max(info.frames or 1, info.frames_at(round(info.fps))), name)
        if next(timed_frames(file, name=name), None) is None:
            raise ValidationError(f"{name or 'the video'} has no frames", field=name)
        return {"info": attrs.asdict(info), "metadata": None}
    metadata = read_video_metadata(file)
    return {"info": attrs.asdict(info), "metadata": metadata.to_json() if metadata else None}


def decode_clip(
    file: BinaryIO,
    emit: Emit,
    *,
    name: str | None,
    frames: int,
    every: int,
    reach: tuple[int, int] | None,
    fps: int | None,
) -> None:
    """Emit every `every`-th of the first `frames` frames as RGB. Frames much larger than `reach` are reduced.

    With `fps`, they are resampled to that constant rate; else they are the stored frames.
    """
    from mold_core.media.clocks import at_constant_rate
    from mold_core.media.video_reading import timed_frames

    stored = timed_frames(file, name=name)
    for frame in islice(at_constant_rate(stored, Fraction(fps)) if fps else stored, 0, frames, every):
        image = frame.image(max(_times_beyond(*frame.display.size, reach), 1))
        emit(image.tobytes(), {"width": image.width, "height": image.height})


def probe_sound(file: BinaryIO, emit: Emit, *, name: str, max_seconds: float) -> dict[str, Any] | None:
    """Decode audio, drop the samples, and return its properties; None for a video without audio."""
    from mold_core.media.sound import stream_sound

    info = stream_sound(file, lambda block: None, max_seconds=max_seconds, name=name)
    return attrs.asdict(info) if info else None


def decode_sound(file: BinaryIO, emit: Emit, *, name: str, max_seconds: float) -> dict[str, Any] | None:
    """Emit the samples of audio in blocks, float32 [channels, n], and return its properties."""
    import numpy as np

    from mold_core.media.sound import stream_sound

    waiting: list[NDArray[Any]] = []

    def flush() -> None:
        whole = np.ascontiguousarray(np.concatenate(waiting, axis=1), np.float32)
        emit(whole.tobytes(), {"channels": len(whole)})
        waiting.clear()

    def add(block: NDArray[Any]) -> None:
        waiting.append(block)
        if len(waiting) >= _BLOCKS_AT_ONCE:
            flush()

    info = stream_sound(file, add, max_seconds=max_seconds, name=name)
    if waiting:
        flush()
    return attrs.asdict(info) if info else None


_BLOCKS_AT_ONCE = 256


def check_image(file: BinaryIO, emit: Emit, *, name: str, max_pixels: int) -> tuple[int, int]:
    """Decode a still image and return its upright size."""
    from mold_core.media.images import decode_image

    return decode_image(file.read(), max_pixels=max_pixels, name=name).size


def transparency_mask(file: BinaryIO, emit: Emit, *, name: str, max_pixels: int) -> None:
    """Emit a PNG that is white where the image is transparent, if it has transparency."""
    from mold_core.media.images import decode_image

    image = decode_image(file.read(), max_pixels=max_pixels, name=name)
    if "A" in image.getbands():
        buffer = BytesIO()
        image.getchannel("A").point(lambda alpha: 255 - alpha).save(buffer, "PNG")
        emit(buffer.getvalue(), {})


def thumbnail(file: BinaryIO, emit: Emit, *, format: str, side: int, max_pixels: int) -> None:
    """Emit a PNG, at most `side` pixels per side, of the image or of the first frame of an animation or video."""
    from mold_core.media.images import decode_image, encode_image

    if format in ("png", "apng", "jpeg", "webp"):
        image = decode_image(_still_bytes(file), max_pixels=max_pixels)
    else:
        first = next(_moving(file, format, side, max_pixels), None)
        if first is None:
            raise ValidationError("the file has no frames")
        image = first
    image.thumbnail((side, side))
    emit(encode_image(image, "png"), {})


def preview(
    file: BinaryIO, emit: Emit, *, format: str, side: int, max_pixels: int, frames: int, every: int, delay_ms: int
) -> int:
    """Emit a GIF of an animation or video, and return its number of frames, at most `frames`.

    It shows an MP4's frames at the times of the GIF's frames, and every `every`-th frame of other formats.
    """
    from mold_core.media.clocks import at_constant_rate
    from mold_core.media.video_reading import timed_frames

    shown = []
    moving: Iterator[Image]
    if format == "mp4":
        timed = at_constant_rate(timed_frames(file, max_pixels=max_pixels), Fraction(1000, delay_ms))
        moving = (frame.image() for frame in islice(timed, frames))
    else:
        moving = islice(_moving(file, format, side, max_pixels), 0, frames * every, every)
    for image in moving:
        image.thumbnail((side, side))
        shown.append(image)
    if len(shown) > 1:
        buffer = BytesIO()
        shown[0].save(buffer, format="GIF", save_all=True, append_images=shown[1:], duration=delay_ms, loop=0)
        emit(buffer.getvalue(), {})
    return len(shown)


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.__name__: task
        for task in (
            probe_video,
            decode_clip,
            probe_sound,
            decode_sound,
            check_image,
            transparency_mask,
            thumbnail,
            preview,
        )
    }
)


def _still_bytes(file: BinaryIO) -> bytes:
    data = file.read(_LARGEST_STILL_BYTES + 1)
    if len(data) > _LARGEST_STILL_BYTES:
        raise ValidationError("the file is too large for a thumbnail")
    return data


def _moving(file: BinaryIO, format: str, side: int, max_pixels: int) -> Iterator[Image]:
    if format == "mp4":
        from mold_core.media.video_reading import decode_frames

        yield from decode_frames(file, max_pixels=max_pixels)
        return
    from PIL import GifImagePlugin, Image, ImageSequence, PngImagePlugin, WebPImagePlugin  # noqa: F401

    data = _still_bytes(file)
    check_animation(data, min(max_pixels, MAX_ANIMATION_PIXELS))
    with Image.open(BytesIO(data), formats=_ANIMATIONS) as animation:
        check_frame(*animation.size, MAX_ANIMATION_PIXELS, "the image")
        for frame in ImageSequence.Iterator(animation):
            check_frame(*frame.size, MAX_ANIMATION_PIXELS, "the image")
            yield frame.convert("RGB")


def _times_beyond(width: int, height: int, reach: tuple[int, int] | None) -> int:
    """Return the largest reduction at which a frame is still twice as wide and high as `reach`."""
    return 1 if reach is None else min(width // reach[0], height // reach[1]) // 2
