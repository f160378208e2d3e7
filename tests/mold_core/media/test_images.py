"""Images survive being written, and hostile images are refused in plain words."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import time
import zlib
from io import BytesIO
from typing import get_args

import pytest
from PIL import Image, ImageChops, ImageStat

from mold_core.errors import ValidationError
from mold_core.media import CONTENT_TYPES, EXTENSIONS, ImageFormat, decode_image, encode_image
from mold_core.media.containers import PNG_SIGNATURE, image_format, png_chunk
from mold_core.wire import OUTPUT_FORMATS

FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)


def scene(size: tuple[int, int] = (96, 64)) -> Image.Image:
    """An image with smooth shades, hard edges and strong colours."""
    shades = [Image.linear_gradient("L").rotate(turn).resize(size) for turn in (0, 90, 180)]
    image = Image.merge("RGB", shades)
    image.paste((255, 0, 0), (20, 10, 50, 40))
    image.paste((0, 0, 255), (50, 10, 60, 40))
    return image


def difference(one: Image.Image, other: Image.Image) -> float:
    """The root of the mean squared difference over all channels, of 255."""
    squares = [value**2 for value in ImageStat.Stat(ImageChops.difference(one, other)).rms]
    return float((sum(squares) / len(squares)) ** 0.5)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


# --- encode ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "worst"), [("png", 0), ("jpeg", 2.5), ("webp", 12)]
)  # WebP halves the resolution of colour
def test_a_image_comes_back_nearly_as_it_was(format: ImageFormat, worst: float) -> None:
    data = encode_image(scene(), format)
    assert image_format(data) == format
    assert difference(decode_image(data), scene()) <= worst


def test_a_lossless_webp_comes_back_exactly() -> None:
    assert difference(decode_image(encode_image(scene(), "webp", lossless=True)), scene()) == 0


def test_a_jpeg_keeps_the_full_resolution_of_colour() -> None:
    with Image.open(BytesIO(encode_image(scene(), "jpeg"))) as image:
        assert {layer[1:3] for layer in image.layer} == {(1, 1)}  # type: ignore[attr-defined]


def test_lower_quality_makes_smaller_files() -> None:
    for format in ("jpeg", "webp"):
        assert len(encode_image(scene(), format, quality=30)) < len(encode_image(scene(), format))


def test_transparency_is_kept_where_the_format_has_it_and_white_where_not() -> None:
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    assert decode_image(encode_image(image, "png")).getpixel((8, 8)) == (0, 0, 0, 0)
    assert decode_image(encode_image(image, "webp", lossless=True)).mode == "RGBA"
    assert decode_image(encode_image(image, "jpeg")).getpixel((8, 8)) == (255, 255, 255)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "CMYK", "YCbCr", "HSV", "I;16", "F"])
def test_every_kind_of_image_can_be_written(format: ImageFormat, mode: str) -> None:
    image = Image.new("L", (8, 8), 255).convert("RGB") if mode in ("CMYK", "YCbCr", "HSV") else None
    image = image.convert(mode) if image else Image.new(mode, (8, 8), {"I;16": 65_535, "1": 1}.get(mode, 255))
    assert decode_image(encode_image(image, format)).size == (8, 8)


def test_nothing_of_the_source_but_its_pixels_is_written() -> None:
    private = b"private words"
    for source in (
        saved(scene(), "JPEG", comment=private, xmp=private),
        saved(scene(), "WEBP", xmp=private),
    ):
        with Image.open(BytesIO(source)) as image:
            assert all(private not in encode_image(image, format) for format in FORMATS)
        assert decode_image(source).info == {}


def test_writing_a_image_leaves_it_as_it_was() -> None:
    image = scene()
    image.info["comment"] = b"mine"
    encode_image(image, "jpeg")
    assert image.info == {"comment": b"mine"}


def test_a_image_too_large_for_a_format_is_refused_in_words() -> None:
    with pytest.raises(
        ValidationError, match="webp holds at most 16,383 pixels a side, not 16384 x 1; choose png"
    ) as caught:
        encode_image(Image.new("RGB", (16_384, 1)), "webp")
    assert caught.value.field == "output_format"
    assert encode_image(Image.new("RGB", (16_384, 1)), "png")


def test_every_output_format_has_a_content_type_and_an_extension() -> None:
    assert set(CONTENT_TYPES) == set(EXTENSIONS) == set(OUTPUT_FORMATS)
    assert CONTENT_TYPES["apng"] == "image/apng"
    assert (EXTENSIONS["jpeg"], EXTENSIONS["apng"]) == ("jpeg", "png")


# --- decode ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_an_opaque_image_becomes_rgb(mode: str) -> None:
    assert decode_image(saved(scene().convert(mode), "PNG")).mode == "RGB"


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_transparent_image_becomes_rgba(mode: str) -> None:
    assert decode_image(saved(scene().convert(mode), "PNG")).mode == "RGBA"
    assert decode_image(saved(scene().quantize(16), "PNG", transparency=0)).mode == "RGBA"


def test_sixteen_bit_grey_keeps_its_shades() -> None:
    deep = Image.linear_gradient("L").convert("I").point(lambda value: value * 257).convert("I;16")
    assert difference(decode_image(saved(deep, "PNG")), Image.linear_gradient("L").convert("RGB")) <= 0.5


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    assert difference(decode_image(saved(scene().convert("CMYK"), "JPEG", quality=95)), scene()) < 6


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_held_sideways_is_turned_upright(format: ImageFormat, orientation: int) -> None:
    lying = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    exif[0x0112] = orientation
    turned = scene() if lying is None else scene().transpose(lying)
    data = saved(turned, format.upper(), exif=exif, quality=95)
    upright = decode_image(data)
    assert upright.size == scene().size
    assert difference(upright, scene()) < 12


@pytest.mark.parametrize(
    "exif", [b"", b"II", b"MM\0*\0\0\0\x08\xff\xff", b"II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0" * 99]
)
def test_nonsense_in_exif_is_ignored(exif: bytes) -> None:
    assert difference(decode_image(saved(scene(), "PNG", exif=b"Exif\0\0" + exif)), scene()) == 0


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    for format in ("PNG", "WEBP"):
        data = saved(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
        assert decode_image(data).convert("RGB").getpixel((4, 4)) == (255, 0, 0)


# --- hostile images --------------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    return PNG_SIGNATURE + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def deflated_zeros(size: int) -> bytes:
    """A zlib stream of `size` zero bytes, made without having them in memory."""
    mebibyte = zlib.compressobj(9, wbits=-15)
    block = mebibyte.compress(bytes(2**20)) + mebibyte.flush(zlib.Z_FULL_FLUSH)
    rest = zlib.compressobj(9, wbits=-15)
    end = rest.compress(bytes(size % 2**20)) + rest.flush()
    checksum = (size % 65_521) << 16 | 1
    return b"\x78\xda" + block * (size // 2**20) + end + checksum.to_bytes(4, "big")


def black_png(width: int, height: int) -> bytes:
    pixels = deflated_zeros(height * (1 + 3 * width))
    return png_header(width, height) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


def huge_jpeg() -> bytes:
    data = saved(scene(), "JPEG")
    size_at = data.index(b"\xff\xc0") + 5
    return data[:size_at] + b"\xff\xff\xff\xff" + data[size_at + 4 :]


def refusal(data: bytes, **options: object) -> str:
    with pytest.raises(ValidationError) as caught:
        decode_image(data, name="source_image", **options)  # type: ignore[arg-type]
    assert caught.value.field == "source_image"
    message = str(caught.value)
    assert message.startswith("source_image ")
    assert " at 0x" not in message
    assert "PIL" not in message
    return message


def decoded_or_refused(data: bytes) -> Image.Image | str:
    try:
        return decode_image(data, max_pixels=1_000_000)
    except ValidationError as error:
        return str(error)


def test_a_small_file_with_a_huge_image_is_refused_before_it_is_unpacked() -> None:
    script = (
        "import resource, sys; from mold_core.media import decode_image; from PIL import PngImagePlugin\n"
        "data, before = sys.stdin.buffer.read(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: decode_image(data)\n"
        "except Exception as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    bomb = black_png(13_000, 13_000)
    assert len(bomb) < 700_000
    answer = subprocess.run([sys.executable, "-W", "error", "-c", script], input=bomb, capture_output=True, check=True)
    message, grown_kib = answer.stdout.decode().splitlines()
    assert message == "image has 13000 x 13000 = 169.0 megapixels, over the limit of 32; scale it down first"
    assert int(grown_kib) < 10_000


@pytest.mark.parametrize(
    "data",
    [
        png_header(2**31 - 1, 2**31 - 1) + png_chunk(b"IDAT", bytes(9)),
        huge_jpeg(),
        b"RIFF\x30\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\xff\xff\xff\xff\xff\xff" + bytes(40),
        b"RIFF\x30\0\0\0WEBPVP8L\x0a\0\0\0\x2f\xff\xff\xff\xff" + bytes(40),
        b"RIFF\x30\0\0\0WEBPVP8 \x0a\0\0\0\x10\0\0\x9d\x01\x2a\xff\x3f\xff\x3f" + bytes(40),
    ],
    ids=["PNG", "JPEG", "WebP extended", "WebP lossless", "WebP lossy"],
)
def test_a_header_that_claims_a_huge_size_is_refused(data: bytes) -> None:
    assert "megapixels, over the limit of 32; scale it down first" in refusal(data)


def test_the_limit_is_exact() -> None:
    data = saved(Image.new("RGB", (100, 50)), "PNG")
    assert decode_image(data, max_pixels=5000).size == (100, 50)
    assert "100 x 50" in refusal(data, max_pixels=4999)


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_cut_anywhere_is_refused_or_whole(format: ImageFormat) -> None:
    data, whole = encode_image(scene(), format), decode_image(encode_image(scene(), format))
    for end in range(12, len(data) - 1, max(1, len(data) // 60)):
        image = decoded_or_refused(data[:end])
        if isinstance(image, str):
            assert "is truncated or damaged; open it in an image editor" in image
        else:
            assert difference(image, whole) == 0  # only marks after the pixels were missing


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b"\n<!DOCTYPE html><html></html>", "a web page"),
        (b"GIF89a" + bytes(20), "a GIF"),
        (b"\0\0\0\x18ftypisom" + bytes(20), "an MP4 or MOV file"),
        (b"iVBORw0KGgoAAAANSUhEUg", "base64 text of a PNG"),
        (b"data:image/png;base64,iVBO", "a data: URL"),
        (b"\x00\x01\x02\x03\x04", "something that begins with the bytes 00 01 02 03"),
    ],
)
def test_another_kind_of_file_is_named(data: bytes, words: str) -> None:
    assert refusal(data) == f"source_image must be a PNG, JPEG, WebP, AVIF or HEIC image, not {words}"


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "PPM", "ICO", "PCX", "TGA"])
def test_formats_that_pillow_would_open_are_refused(format: str) -> None:
    assert "must be a PNG, JPEG, WebP, AVIF or HEIC image" in refusal(saved(scene(), format))


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_a_image_without_pixels_is_refused(size: tuple[int, int]) -> None:
    assert "damaged" in refusal(png_header(*size) + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b""))


def test_a_text_bomb_in_a_png_is_refused() -> None:
    text = png_chunk(b"zTXt", b"key\0\0" + deflated_zeros(100_000_000))
    data = saved(scene(), "PNG")
    assert "damaged" in refusal(data[:33] + text + data[33:])


def test_a_progressive_jpeg_is_welcome_but_not_one_of_a_thousand_scans() -> None:
    data = saved(scene((800, 600)), "JPEG", progressive=True)
    assert decode_image(data).size == (800, 600)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    assert "damaged" in refusal(data[:-2] + last_scan * 1000 + data[-2:])
    hidden_end = b"\xff\xfe\x00\x04\xff\xd9"  # a comment that holds an end-of-image marker
    assert "damaged" in refusal(data[:-2] + hidden_end + last_scan * 1000 + data[-2:])


def test_files_that_would_keep_a_decoder_busy_are_refused_at_once() -> None:
    png, jpeg = saved(scene(), "PNG"), saved(scene(), "JPEG")
    pixels_at, megabytes = png.index(b"IDAT") - 4, 4_000_000
    started = time.process_time()
    for data in (
        png[:33] + png_chunk(b"abCd", b"") * (megabytes // 12) + png[33:],
        png[:pixels_at] + png_chunk(b"IDAT", b"") * (megabytes // 12) + png[pixels_at:],
        jpeg[:2] + b"\xff" * megabytes + jpeg[2:],
        jpeg[:4] + b"\x00\x02" + bytes(megabytes) + jpeg[2:],
        jpeg[:2] + b"\xff\xfe\x00\x02" * (megabytes // 4) + jpeg[2:],
    ):
        assert "damaged" in refusal(data)
    assert time.process_time() - started < 0.5


def test_a_photo_with_a_video_behind_it_is_accepted() -> None:
    noise = random.Random(3).randbytes(1_000_000) + b"\xff\xda" * 200
    assert decode_image(saved(scene(), "JPEG", exif=b"Exif\0\0" + b"\xff\xda\xff\xd9" * 999) + noise).size == (96, 64)


@pytest.mark.parametrize("format", FORMATS)
def test_no_damage_makes_anything_but_a_image_or_a_clear_refusal(format: ImageFormat) -> None:
    data, dice = encode_image(scene(), format), random.Random(9)
    for _ in range(250):
        damaged = bytearray(data)
        for _ in range(dice.choice((1, 4, 20))):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        image = decoded_or_refused(bytes(damaged))
        assert image.startswith("image ") if isinstance(image, str) else image.mode in ("RGB", "RGBA")


def test_importing_the_package_does_not_import_pillow_or_torch() -> None:
    script = (
        "import mold_core.media, mold_core.gallery, sys; sys.exit(bool({'PIL', 'torch', 'numpy'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
