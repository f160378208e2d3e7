"""Finished images and videos: opened, as numbers, and in notebooks."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from mold_core import GenerateResponse, ImageData, VideoData
from mold_core.media import encode_image


def source(format: str) -> ImageData:
    image = Image.new("RGB", (6, 4), (250, 10, 10))
    return ImageData(data=encode_image(image, format), format=format, width=6, height=4)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_a_image_is_opened_and_shown(format: str) -> None:
    made = source(format)
    assert made.to_pil().size == (6, 4)
    assert made.to_numpy().shape == (4, 6, 3)
    assert np.abs(made.to_numpy()[0, 0].astype(int) - (250, 10, 10)).max() < 8
    bundle = made._repr_mimebundle_()
    assert Image.open(BytesIO(base64.b64decode(bundle[f"image/{format}"]))).format == format.upper()
    assert bundle["text/html"].startswith(f'<img src="data:image/{format};base64,')
    assert bundle["text/plain"] == repr(made) == f"<{format} image, 6x4, {len(made.data)} bytes>"


def test_transparency_is_a_fourth_number() -> None:
    buffer = BytesIO()
    Image.new("RGBA", (2, 2), (1, 2, 3, 4)).save(buffer, "PNG")
    made = ImageData(data=buffer.getvalue(), format="png", width=2, height=2)
    assert made.to_numpy()[0, 0].tolist() == [1, 2, 3, 4]


def test_a_video_plays_in_a_notebook() -> None:
    video = VideoData(data=b"video", format="mp4", width=64, height=32, frames=9, fps=8)
    assert video._repr_html_().startswith('<video controls loop width="64" height="32"')
    assert base64.b64encode(b"video").decode() in video._repr_html_()
    response = GenerateResponse(images=(), video=video, generation_time_ms=1, model="a:b", seed_used=1)
    assert response._repr_html_() == video._repr_html_()


def test_a_response_shows_all_its_images() -> None:
    made = source("png")
    response = GenerateResponse(images=(made, made), generation_time_ms=1, model="a:b", seed_used=1)
    assert response._repr_html_().count("<img ") == 2
