"""What the rest of mold asks decoder processes for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from mold_core.errors import ValidationError
from mold_core.hookspecs import Sound
from mold_core.media.containers import image_size, source_format
from mold_core.media.decoder.pool import pool
from mold_core.media.decoder.process import Part, Task
from mold_core.media.images import DEFAULT_MAX_PIXELS
from mold_core.media.metadata import OutputMetadata
from mold_core.media.sound import SoundInfo
from mold_core.media.video_reading import VideoInfo

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "PREVIEW_FPS",
    "check_image",
    "close_decoders",
    "decode_clip",
    "decode_sound",
    "preview",
    "probe_sound",
    "probe_video",
    "read_video",
    "thumbnail",
    "transparency_mask",
    "warm_decoder",
]


@attrs.frozen(kw_only=True)
class _Time:
    """Seconds that a task may take: of processors, by the clock, and before that until a decoder is free."""

    cpu_s: float
    wall_s: float
    patience_s: float


# For what somebody waits for: a request to be accepted or refused, a small image of a result.
_SOON = _Time(cpu_s=2.5, wall_s=5.0, patience_s=4.5)
# For what is read beside everything else.
_SOME_TIME = _Time(cpu_s=2.5, wall_s=30.0, patience_s=600.0)
# For what is decoded whole, in a worker.
_WHOLE = _Time(cpu_s=60.0, wall_s=120.0, patience_s=600.0)

_SIDE = 256
# A preview shows the first eight seconds at eight frames a second, as far as the video goes.
PREVIEW_FPS = 8
_PREVIEW_FRAMES = 64
# PERF: a still image up to this size is unpacked where it is: 8 MB, 10 ms.
_SMALL_PIXELS = 1_100_000
_MAX_CLIP_BYTES = 4 << 30


def probe_video(data: bytes, *, name: str) -> VideoInfo:
    """Return what a client's MP4 says of itself, once its first frame has been decoded.

    `frames` is what the index says. All frames together may have `limits.MAX_TOTAL_PIXELS`.
    """
    return _video_info(_soon("probe_video", data, name=name, strict=True))


def read_video(path: Path) -> tuple[VideoInfo, OutputMetadata | None]:
    """Return what an MP4 on disk says of itself, and the metadata in it, if there is some that can be read."""
    found = _run(_SOME_TIME, "probe_video", path, {"name": None, "strict": False})
    text = found["metadata"]
    return _video_info(found), OutputMetadata.from_json(text) if text else None


def decode_clip(
    data: bytes,
    *,
    name: str,
    frames: int,
    every: int = 1,
    reach: tuple[int, int] | None = None,
    fps: int | None = None,
) -> list[Image]:
    """Return every `every`-th of the first `frames` frames of an MP4 as RGB images, upright and with square pixels.

    With `fps` they are the frames at that constant rate, in step with the sound; else the stored ones. Where only
    `reach`, a width and a height, will be made of them, frames at least four times as large come smaller.
    """
    from PIL import Image as images

    made: list[Image] = []
    taken = 0

    def take(part: Part) -> None:
        nonlocal taken
        taken += len(part.data)
        if taken > _MAX_CLIP_BYTES:
            raise ValidationError(f"{name} has too many frames of this size", field=name, hint="scale it down first")
        made.append(images.frombytes("RGB", (part.about["width"], part.about["height"]), part.data))

    options = {"name": name, "frames": frames, "every": every, "reach": reach, "fps": fps}
    _run(_WHOLE, "decode_clip", data, options, take)
    return made


def probe_sound(data: bytes, *, max_seconds: float, name: str) -> SoundInfo | None:
    """Return what the first `max_seconds` of a sound are, once decoded; None for a video without sound."""
    found = _soon("probe_sound", data, name=name, max_seconds=max_seconds)
    return None if found is None else SoundInfo(**found)


def decode_sound(data: bytes, *, max_seconds: float, name: str = "sound") -> Sound | None:
    """Return the first `max_seconds` of a file's sound, as `mold_core.media.sound.decode_sound` does."""
    import numpy as np

    blocks: list[Any] = []

    def take(part: Part) -> None:
        blocks.append(np.frombuffer(part.data, np.float32).reshape(part.about["channels"], -1))

    options = {"name": name, "max_seconds": max_seconds}
    found = _run(_WHOLE, "decode_sound", data, options, take)
    if found is None:
        return None
    return Sound(samples=np.concatenate(blocks, axis=1), sample_rate=found["sample_rate"])


def check_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str = "image") -> tuple[int, int]:
    """Return the size, upright, of a still image whose pixels have been unpacked; large ones in a decoder process."""
    width, height = image_size(BytesIO(data)) or (1, 1)
    if width * height <= _SMALL_PIXELS and source_format(data) not in ("avif", "heic"):
        from mold_core.media.images import decode_image

        return decode_image(data, max_pixels=max_pixels, name=name).size
    wide, high = _soon("check_image", data, name=name, max_pixels=max_pixels)
    return int(wide), int(high)


def transparency_mask(data: bytes, *, name: str) -> bytes | None:
    """Return a PNG that is white where an image is transparent; None for one without transparency."""
    parts: list[Part] = []
    options = {"name": name, "max_pixels": DEFAULT_MAX_PIXELS}
    _run(_SOON, "transparency_mask", data, options, parts.append)
    return parts[0].data if parts else None


def thumbnail(path: Path, format: str) -> bytes:
    """Return a PNG of at most 256 pixels a side of a result on disk, of the first frame if it moves."""
    parts: list[Part] = []
    options = {"format": format, "side": _SIDE, "max_pixels": DEFAULT_MAX_PIXELS}
    _run(_SOON, "thumbnail", path, options, parts.append)
    return parts[0].data


def preview(path: Path, format: str, fps: float | None) -> bytes | None:
    """Return a GIF of a result on disk that moves; None for one of fewer than two frames."""
    parts: list[Part] = []
    options = {
        "format": format,
        "side": _SIDE,
        "max_pixels": DEFAULT_MAX_PIXELS,
        "frames": _PREVIEW_FRAMES,
        "every": max(1, round((fps or 3 * PREVIEW_FPS) / PREVIEW_FPS)),
        "delay_ms": round(1000 / PREVIEW_FPS),
    }
    _run(_SOON, "preview", path, options, parts.append)
    return parts[0].data if parts else None


def warm_decoder() -> None:
    """Start a decoder process, so that the first file need not wait for it."""
    pool().warm()


def close_decoders() -> None:
    """End the decoder processes; they are started again when they are needed."""
    pool().close()


def _soon(task: str, source: bytes, **options: Any) -> Any:
    return pool().run_once(Task(name=task, source=source, options=options, **attrs.asdict(_SOON)))


def _run(
    time: _Time,
    name: str,
    source: bytes | Path,
    options: Mapping[str, Any],
    take: Callable[[Part], object] | None = None,
) -> Any:
    limits = attrs.asdict(time)
    return pool().run(Task(name=name, source=source, options=options, **limits), take)


def _video_info(found: dict[str, Any]) -> VideoInfo:
    return VideoInfo(**found["info"])
