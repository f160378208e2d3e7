"""Small images, videos and sounds that requests for videos carry."""

from __future__ import annotations

import wave
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from mold_core.media.video import VideoWriter

__all__ = ["frames", "mp4", "png", "wav"]


def frames(count: int, size: tuple[int, int] = (64, 32)) -> list[Image.Image]:
    """Return images of a bright bar that moves across a coloured ground."""
    made = []
    for index in range(count):
        pixels = np.zeros((size[1], size[0], 3), np.uint8)
        pixels[..., 0] = np.linspace(20, 200, size[0], dtype=np.uint8)
        pixels[..., 2] = np.linspace(200, 20, size[1], dtype=np.uint8)[:, None]
        left = 3 * index % (size[0] - 8)
        pixels[:, left : left + 8] = (240, 230, 60)
        made.append(Image.fromarray(pixels))
    return made


def png(image: Image.Image) -> bytes:
    """Return an image as a PNG."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def mp4(images: list[Image.Image], fps: int = 25, sound: np.ndarray | None = None) -> bytes:
    """Return images as an MP4, with sound [2, n] at 16 kHz where there is any."""
    width, height = images[0].size
    with TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        rate = None if sound is None else 16_000
        with (
            path.open("w+b") as file,
            VideoWriter(file, "mp4", width=width, height=height, fps=fps, sample_rate=rate) as video,
        ):
            for image in images:
                video.add(image)
            if sound is not None:
                video.add_sound(sound)
        return path.read_bytes()


def wav(samples: np.ndarray, rate: int = 16_000) -> bytes:
    """Return samples [channels, n] in -1 to 1 as a WAV file."""
    buffer = BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(len(samples))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples.T * 32767).astype("<i2").tobytes())
    return buffer.getvalue()
