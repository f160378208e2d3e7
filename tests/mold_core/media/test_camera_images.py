"""Images of cameras, phones and editors: color profiles, transparent colors, AVIF and HEIC."""

from __future__ import annotations

import random
import struct
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from icc_profiles import ADOBE_RGB, DISPLAY_P3, grey_profile, in_profile, rgb_profile
from PIL import Image

from mold_core import ValidationError
from mold_core.media import decode_image, decoder
from mold_core.media.color_profiles import from_srgb
from mold_core.media.containers import PNG_SIGNATURE, png_chunk
from mold_core.media.images import decode_image_as_stored
from mold_core.upscaling.images import read_image

COLORS = ((70, 130, 200), (200, 60, 60), (40, 170, 60), (128, 128, 128))


def palette() -> Image.Image:
    """Return four squares of a color each."""
    image = Image.new("RGB", (64, 16))
    for index, color in enumerate(COLORS):
        image.paste(color, (16 * index, 0, 16 * index + 16, 16))
    return image


def colors_of(image: Image.Image) -> list[tuple[int, ...]]:
    return [image.getpixel((16 * index + 8, 8))[:3] for index in range(4)]  # type: ignore[index, misc]


def farthest(image: Image.Image) -> int:
    pairs = zip(colors_of(image), COLORS, strict=True)
    return max(abs(one - other) for got, expected in pairs for one, other in zip(got, expected, strict=True))


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


# --- color profiles --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("primaries", [ADOBE_RGB, DISPLAY_P3])
@pytest.mark.parametrize(("format", "most"), [("PNG", 2), ("JPEG", 4), ("WEBP", 4), ("AVIF", 6)])
def test_colors_of_a_profile_become_those_of_srgb(
    primaries: tuple[tuple[float, ...], ...], format: str, most: int
) -> None:
    profile = rgb_profile(primaries)
    options = {"lossless": True} if format == "WEBP" else {"quality": 98} if format != "PNG" else {}
    data = saved(in_profile(palette(), profile), format, icc_profile=profile, **options)
    assert farthest(Image.open(BytesIO(data)).convert("RGB")) > 8  # else this tests nothing
    assert farthest(decode_image(data)) <= most


def test_transparency_and_orientation_stay_with_a_profile() -> None:
    profile = rgb_profile()
    image = in_profile(palette(), profile)
    image.putalpha(Image.new("L", image.size, 77))
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = decode_image(saved(image.transpose(Image.Transpose.ROTATE_180), icc_profile=profile, exif=exif))
    assert turned.getpixel((3, 3))[3] == 77 and farthest(turned) <= 2  # type: ignore[index]


def test_samples_are_unchanged_where_they_are_to_be_kept() -> None:
    profile = rgb_profile()
    stored = in_profile(palette(), profile)
    image, found = decode_image_as_stored(saved(stored, icc_profile=profile))
    assert image.tobytes() == stored.tobytes() and found == profile


def test_srgb_under_another_name_changes_nothing() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = saved(palette(), icc_profile=profile)
    assert decode_image(data).tobytes() == palette().tobytes()
    assert decode_image_as_stored(data)[1] is None


def test_grey_of_another_gamma_becomes_that_of_srgb_but_masks_keep_their_levels() -> None:
    data = saved(Image.new("L", (8, 8), 128), icc_profile=grey_profile(1.0))
    assert decode_image(data).getpixel((4, 4)) == pytest.approx((188,) * 3, abs=1)  # half of the light
    assert decode_image(data, srgb=False).getpixel((4, 4)) == (128,) * 3


@pytest.mark.parametrize("profile", [b"nonsense" * 40, rgb_profile()[:300], grey_profile(1.0), rgb_profile()[:128]])
def test_a_profile_that_does_not_fit_is_ignored(profile: bytes) -> None:
    assert decode_image(saved(palette(), icc_profile=profile)).tobytes() == palette().tobytes()


def test_no_damage_to_a_profile_makes_an_image_unreadable() -> None:
    numbers = random.Random(6)
    for _ in range(150):
        profile = bytearray(numbers.choice([rgb_profile(), grey_profile(1.8)]))
        for _ in range(numbers.randint(1, 8)):
            profile[numbers.randrange(len(profile))] = numbers.choice((0, 127, 255, numbers.randrange(256)))
        image = numbers.choice([palette(), palette().convert("L")])
        data = saved(image, icc_profile=bytes(profile[: numbers.randint(20, len(profile))]))
        assert decode_image(data).size == (64, 16)
        stored, found = decode_image_as_stored(data)
        assert found is None or from_srgb(stored, found).size == (64, 16)


def test_a_profile_of_a_space_that_is_no_text_is_ignored() -> None:
    profile = bytearray(rgb_profile())
    profile[16:20] = b"\xffGB "
    assert decode_image(saved(palette(), icc_profile=bytes(profile))).tobytes() == palette().tobytes()


def test_thumbnails_are_in_srgb(tmp_path: Path) -> None:
    profile = rgb_profile(DISPLAY_P3)
    (tmp_path / "a.png").write_bytes(saved(in_profile(palette(), profile), icc_profile=profile))
    small = Image.open(BytesIO(decoder.thumbnail(tmp_path / "a.png", "png")))
    assert farthest(small.convert("RGB")) <= 2


# --- transparent colors ----------------------------------------------------------------------------------------------


def png(bits: int, color_type: int, width: int, row: bytes, key: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, 1, bits, color_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", key), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(png_chunk(kind, body) for kind, body in chunks)


KEYED = {
    "grey of 1 bit": (png(1, 0, 8, b"\x7f", b"\0\0"), [0] + [255] * 7),
    "grey of 2 bits": (png(2, 0, 4, b"\x1b", b"\0\2"), [255, 255, 0, 255]),
    "grey of 4 bits": (png(4, 0, 2, b"\x3a", b"\0\3"), [0, 255]),
    "grey of 8 bits": (png(8, 0, 2, b"\3\4", b"\0\3"), [0, 255]),
    "grey of 16 bits": (png(16, 0, 3, b"\3\x0a\3\x0b\0\0", b"\3\x0a"), [0, 255, 255]),
    "RGB of 8 bits": (png(8, 2, 2, b"\1\2\3\1\2\4", b"\0\1\0\2\0\3"), [0, 255]),
    "RGB of 16 bits": (png(16, 2, 2, b"\3\x0a\3\x0b\3\x0c\3\x0a\3\x0b\3\x0d", b"\3\x0a\3\x0b\3\x0c"), [0, 255]),
}


@pytest.mark.parametrize("name", KEYED)
def test_exactly_the_transparent_color_of_a_png_is_transparent(name: str) -> None:
    data, alphas = KEYED[name]
    image = decode_image(data)
    assert image.mode == "RGBA" and list(image.getchannel("A").tobytes()) == alphas
    upscaled = read_image(data)
    most = 2**upscaled.bits - 1
    assert [value * 255 // most for value in upscaled.samples[0, :, -1].tolist()] == alphas


# --- AVIF and HEIC ---------------------------------------------------------------------------------------------------


def heic(image: Image.Image) -> bytes:
    import pillow_heif

    buffer = BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=95)
    return buffer.getvalue()


def test_an_avif_is_a_source_of_any_size() -> None:
    data = saved(palette().resize((1600, 1000), Image.Resampling.NEAREST), "AVIF", quality=60, speed=10)
    assert decoder.check_image(data) == (1600, 1000)
    assert decode_image(data).getpixel((100, 500)) == pytest.approx(COLORS[0], abs=6)
    assert read_image(data).samples.shape == (1000, 1600, 3)


def test_an_avif_held_sideways_is_upright_and_keeps_its_transparency() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = palette()
    image.putalpha(Image.new("L", image.size, 128))
    assert decode_image(saved(image, "AVIF", exif=exif)).size == (16, 64)
    assert decode_image(saved(image, "AVIF")).getpixel((4, 4))[3] == pytest.approx(128, abs=2)  # type: ignore[index]


def test_a_heic_is_a_source() -> None:
    data = heic(palette())
    assert decoder.check_image(data) == (64, 16)
    assert farthest(decode_image(data)) <= 6


@pytest.mark.parametrize("format", ["avif", "heic"])
def test_damaged_and_huge_ones_are_refused(format: str) -> None:
    data = heic(palette()) if format == "heic" else saved(palette(), "AVIF")
    with pytest.raises(ValidationError, match="megapixels"):
        decode_image(data, max_pixels=1000)
    for end in range(12, len(data), max(len(data) // 12, 1)):
        with pytest.raises(ValidationError):
            decoder.check_image(data[:end], name="image")
