"""Sizes read from headers alone: what Pillow would say, and of moving images the edges of every frame."""

from __future__ import annotations

import zlib
from io import BytesIO

import pytest
from media_bombs import gif
from PIL import Image

from mold_core import ValidationError
from mold_core.media import decode_image
from mold_core.media.animations import check_animation, frame_sizes
from mold_core.media.containers import PNG_SIGNATURE, image_size, png_chunk


def saved(format: str, **options: object) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (70, 30)).save(buffer, format, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        saved("PNG"),
        saved("JPEG"),
        saved("JPEG", progressive=True, comment=b"a" * 1000),
        saved("WEBP"),
        saved("WEBP", lossless=True),
        saved("WEBP", save_all=True, append_images=[Image.new("RGB", (70, 30), "red")]),
        saved("GIF"),
    ],
)
def test_the_size_of_an_image_is_in_its_header(data: bytes) -> None:
    assert image_size(BytesIO(data)) == (70, 30)


@pytest.mark.parametrize("data", [b"", b"GIF89a", saved("JPEG")[:20], PNG_SIGNATURE + bytes(30), b"RIFF\0\0\0\0WEBP"])
def test_a_header_without_a_size_has_none(data: bytes) -> None:
    assert image_size(BytesIO(data)) is None


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_every_frame_of_what_moves_is_seen(format: str) -> None:
    more = [Image.new("RGB", (70, 30), color) for color in ("red", "blue")]
    data = saved(format, save_all=True, append_images=more)
    sizes = list(frame_sizes(data))
    assert len(sizes) == 4 and max(sizes) == (70, 30)
    check_animation(data, 70 * 30)
    with pytest.raises(ValidationError, match="the image has frames of 70 x 30 pixels"):
        check_animation(data, 70 * 30 - 1)


def test_a_large_frame_after_what_no_program_writes_is_seen() -> None:
    data = gif((8, 8), (8, 8), (60_000, 9))
    place = data.rindex(b"\x21\xf9")
    assert (60_000, 9) in frame_sizes(data[:place] + b"\x07\x07\x07" + data[place:])


def test_texts_that_unpack_to_tens_of_megabytes_are_refused() -> None:
    text = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(900_000)))
    whole = saved("PNG")
    after_header = len(PNG_SIGNATURE) + 25
    with pytest.raises(ValidationError, match="damaged"):
        decode_image(whole[:after_header] + text * 40 + whole[after_header:])
    assert decode_image(whole[:after_header] + text * 3 + whole[after_header:]).size == (70, 30)
