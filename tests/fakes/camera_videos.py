"""Videos as phones, cameras and screen recorders write them, and what to look at in them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

WIDTH, HEIGHT = 96, 64
RATE = 48_000
BLUE, RED, GREEN = (40, 80, 160), (230, 50, 30), (30, 200, 60)


def camera_frame(bright: bool = False) -> np.ndarray:
    """Return a blue frame with a red corner at the upper left and a green one at the lower right."""
    pixels = np.full((HEIGHT, WIDTH, 3), 255 if bright else BLUE, np.uint8)
    pixels[:16, :24], pixels[-16:, -24:] = RED, GREEN
    return pixels


def video(
    path: Path,
    times_ms: Sequence[int] = range(0, 800, 100),
    *,
    aspect: tuple[int, int] = (1, 1),
    bright_from_ms: int = 10**9,
    sound_from_ms: int | None = None,
    click_ms: int = 0,
) -> Path:
    """Write an MP4 whose frames have given times, and turn bright at one; its sound begins late and clicks once."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "6", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(*aspect)
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("aac", rate=RATE, layout="mono") if sound_from_ms is not None else None
        for time in times_ms:
            frame = av.VideoFrame.from_ndarray(camera_frame(time >= bright_from_ms), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None and sound_from_ms is not None:
            samples = np.zeros((1, RATE), np.float32)
            click = (click_ms - sound_from_ms) * RATE // 1000
            samples[0, click : click + 2400] = 0.5 * np.sin(np.arange(2400) * 0.3)
            for first in range(0, RATE // 1024 * 1024, 1024):
                block = av.AudioFrame.from_ndarray(samples[:, first : first + 1024], format="fltp", layout="mono")
                block.sample_rate, block.time_base = RATE, Fraction(1, RATE)
                block.pts = first + sound_from_ms * RATE // 1000
                container.mux(sound.encode(block))
            container.mux(sound.encode(None))
    return path


def turned(path: Path, a: int, b: int, c: int, d: int, box: bytes = b"tkhd") -> Path:
    """Write a transformation matrix into the header of the track or of the movie."""
    data = bytearray(path.read_bytes())
    start = data.index(box) + 4 + (40 if box == b"tkhd" else 36)
    data[start : start + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def cut_by_edit_list(data: bytes, from_ms: int) -> bytes:
    """Let the presentation of a video of one second begin later, as trimming on a phone does."""
    edited = bytearray(data)
    start = data.index(b"elst") + 12
    scale = int.from_bytes(data[(at := data.index(b"mdhd") + 16) : at + 4], "big")
    movie = int.from_bytes(data[(at := data.index(b"mvhd") + 16) : at + 4], "big")
    edited[start : start + 8] = struct.pack(">II", movie * (1000 - from_ms) // 1000, scale * from_ms // 1000)
    return bytes(edited)


def is_color(pixel: Any, color: tuple[int, int, int], most: int = 12) -> bool:
    return max(abs(int(one) - other) for one, other in zip(pixel, color, strict=True)) <= most


def corners(image: Image.Image) -> list[str]:
    """Return the colors of the corners, clockwise from the upper left."""
    width, height = image.size
    places = ((4, 4), (width - 5, 4), (width - 5, height - 5), (4, height - 5))
    names = {"red": RED, "green": GREEN, "blue": BLUE}
    return [next(name for name, color in names.items() if is_color(image.getpixel(place), color)) for place in places]


def first_click_s(samples: np.ndarray, rate: int) -> float:
    return float(np.argmax(np.abs(samples[0]) > 0.1)) / rate


def pq(nits: float) -> float:
    power = (nits / 10_000) ** 0.1593017578125
    return float(((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375)


def hlg(nits: float) -> float:
    light = (nits / 1000) ** (1 / 1.2)
    return float((3 * light) ** 0.5 if light <= 1 / 12 else 0.17883277 * np.log(12 * light - 0.28466892) + 0.55991073)


def hdr_video(path: Path, curve: int, levels: Sequence[float]) -> bytes:
    """Write an H.264 of 10 bits with grey bars of some signal levels."""
    bars = np.repeat(np.round(np.array(levels) * 65535).astype(np.uint16), 32)
    pixels = np.repeat(np.tile(bars[None, :, None], (32, 1, 3)), 1, axis=0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = pixels.shape[1], pixels.shape[0], "yuv420p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, curve, 9, 1
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb48le")
        frame = frame.reformat(format="yuv420p10le", dst_colorspace=9, dst_color_range="MPEG")
        frame.pts, frame.time_base = 0, Fraction(1, 10)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()
