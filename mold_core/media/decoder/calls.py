"""The functions of decoder processes, for the rest of mold."""

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
    """Time limits of a task in seconds: processor time, wall time, and the wait for a free decoder before that."""

    cpu_s: float
    wall_s: float
    patience_s: float


# Interactive tasks: checks of a request, and thumbnails of results.
_SOON = _Time(cpu_s=2.5, wall_s=5.0, patience_s=4.5)
# Background tasks.
_SOME_TIME = _Time(cpu_s=2.5, wall_s=30.0, patience_s=600.0)
# Complete decoding, in a worker.
_WHOLE = _Time(cpu_s=60.0, wall_s=120.0, patience_s=600.0)

_SIDE = 256
# A preview shows at most the first eight seconds, at eight frames per second.
PREVIEW_FPS = 8
_PREVIEW_FRAMES = 64
# PERF: a still image up to this size is decoded in this process: 8 MB, 10 ms.
_SMALL_PIXELS = 1_100_000
_MAX_CLIP_BYTES = 4 << 30


def probe_video(data: bytes, *, name: str) -> VideoInfo:
    """Return the properties of a client's MP4, after decoding its first frame.

    `frames` is the number in the index. All frames together may have `limits.MAX_TOTAL_PIXELS`.
    """
    return _video_info(_soon("probe_video", data, name=name, strict=True))


def read_video(path: Path) -> tuple[VideoInfo, OutputMetadata | None]:
    """Return the properties of an MP4 on disk, and its metadata, if there is any and it is readable."""
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

    With `fps`, they are resampled to that constant rate, in sync with the audio; else they are the stored frames.
    `reach` is the width and height that the caller needs; frames at least four times as large are reduced.
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
    """Decode the first `max_seconds` of audio and return its properties; None for a video without audio."""
    found = _soon("probe_sound", data, name=name, max_seconds=max_seconds)
    return None if found is None else SoundInfo(**found)


def decode_sound(data: bytes, *, max_seconds: float, name: str = "sound") -> Sound | None:
    """Return the first `max_seconds` of a file's audio, like `mold_core.media.sound.decode_sound`."""
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
    """Decode a still image and return its upright size. Large images are decoded in a decoder process."""
    width, height = image_size(BytesIO(data)) or (1, 1)
    if width * height <= _SMALL_PIXELS and source_format(data) not in ("avif", "heic"):
        from mold_core.media.images import decode_image

        return decode_image(data, max_pixels=max_pixels, name=name).size
    wide, high = _soon("check_image", data, name=name, max_pixels=max_pixels)
    return int(wide), int(high)


def transparency_mask(data: bytes, *, name: str) -> bytes | None:
    """Return a PNG that is white where an image is transparent; None for an image without transparency."""
    parts: list[Part] = []
    options = {"name": name, "max_pixels": DEFAULT_MAX_PIXELS}
    _run(_SOON, "transparency_mask", data, options, parts.append)
    return parts[0].data if parts else None


def thumbnail(path: Path, format: str) -> bytes:
    """Return a PNG, at most 256 pixels per side, of a result on disk; of an animation or video, the first frame."""
    parts: list[Part] = []
    options = {"format": format, "side": _SIDE, "max_pixels": DEFAULT_MAX_PIXELS}
    _run(_SOON, "thumbnail", path, options, parts.append)
    return parts[0].data


def preview(path: Path, format: str, fps: float | None) -> bytes | None:
    """Return a GIF of an animation or video on disk; None if it has fewer than two frames."""
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
    """Start a decoder process, so that the first file does not wait for it."""
    pool().warm()


def close_decoders() -> None:
    """End the decoder processes. They are started again on demand."""
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
