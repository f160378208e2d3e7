"""What made an image can be read back from its file, whatever the prompt was."""

from __future__ import annotations

import json
import random
import struct
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path
from typing import Literal, get_args
from xml.etree import ElementTree

import attrs
import pytest
from PIL import Image

from mold_core.errors import ValidationError
from mold_core.media import ImageFormat, OutputMetadata, embed_metadata, encode_image, read_metadata
from mold_core.media.containers import gif_header_bytes, jpeg_segments, png_chunk

FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)

METADATA = OutputMetadata(
    prompt="a glowing robot", model="flux-dev:q4", seed=42, steps=25, guidance=3.5, width=64, height=48, version="0.1.0"
)
FULL = attrs.evolve(
    METADATA,
    negative_prompt="rust",
    original_prompt="robot",
    strength=0.75,
    scheduler="ddim",
    lora="style.safetensors",
    lora_scale=0.8,
    frames=97,
    fps=24,
    seed=2**64 - 1,
)
PROMPTS = {
    "plain": "a cat on a skateboard",
    "lines": "first line\nsecond line\r\nthird\ttab",
    "quotes": "\"double\" 'single' \\ back / slash `tick`",
    "xml": "<mold:parameters>{}</mold:parameters> & &amp; ]]> <!-- --> <?xpacket end='w'?>",
    "spoof": 'mold:parameters="{}" mold:parameters {"seed": 0}',
    "emoji": "👩‍🚀 läuft über 月面 \u200f עברית",
    "controls": "".join(map(chr, range(32))) + "\x7f\x85\u2028\ufeff\ufffe\uffff",
    "braces": "{} {0} {prompt} %s %(x)s",
    "long": "x" * 77_000,
    "long emoji": "🤖" * 19_250,
    "long quotes": '"' * 77_000,
    "long NULs": "\0" * 77_000,
    "exactly one comment": "x" * 65_316,
    "empty": "",
}


def opened(format: ImageFormat, metadata: OutputMetadata | None, mode: str = "RGB") -> bytes:
    image = Image.radial_gradient("L").resize((64, 48)).convert(mode)
    return encode_image(image, format, metadata)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_every_prompt_comes_back_and_the_image_still_opens(format: ImageFormat, prompt: str) -> None:
    metadata = attrs.evolve(METADATA, prompt=prompt, negative_prompt=prompt)
    data = opened(format, metadata)
    assert read_metadata(data) == metadata
    with Image.open(BytesIO(data)) as image:
        assert image.format == format.upper()
        assert image.tobytes() == Image.open(BytesIO(opened(format, None))).tobytes()


@pytest.mark.parametrize("format", FORMATS)
def test_all_fields_come_back_from_a_file_on_disk(format: ImageFormat, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(opened(format, FULL))
    assert read_metadata(path) == FULL


@pytest.mark.parametrize("format", FORMATS)
def test_lone_surrogates_become_replacement_characters(format: ImageFormat) -> None:
    metadata = attrs.evolve(METADATA, prompt="broken \ud83d text \udc80")
    assert metadata.prompt == "broken \ufffd text \ufffd"
    assert read_metadata(opened(format, metadata)) == metadata


@pytest.mark.parametrize("format", FORMATS)
def test_a_image_without_metadata_has_none(format: ImageFormat) -> None:
    assert read_metadata(opened(format, None)) is None
    assert b"mold" not in opened(format, None)


def test_fields_that_are_not_set_are_left_out_of_the_json() -> None:
    assert list(json.loads(METADATA.to_json())) == [
        *("prompt", "model", "seed", "steps", "guidance", "width", "height", "version")
    ]


def test_the_same_metadata_gives_the_same_bytes() -> None:
    assert all(opened(format, FULL) == opened(format, FULL) for format in FORMATS)


# --- what other programs see -------------------------------------------------------------------------------------


def test_pillow_sees_each_field_as_png_text_before_the_pixels() -> None:
    data = opened("png", attrs.evolve(FULL, prompt="naïve 🤖\0"))
    with Image.open(BytesIO(data)) as image:
        text = {key: value for key, value in image.info.items() if str(key).startswith("mold:")}
    assert OutputMetadata.from_json(text.pop("mold:parameters")).prompt == "naïve 🤖\0"
    assert text == {
        "mold:prompt": "naïve 🤖\ufffd",
        "mold:model": "flux-dev:q4",
        "mold:negative_prompt": "rust",
        "mold:original_prompt": "robot",
        "mold:version": "0.1.0",
        "mold:seed": "18446744073709551615",
        "mold:steps": "25",
        "mold:guidance": "3.5",
        "mold:width": "64",
        "mold:height": "48",
        "mold:strength": "0.75",
        "mold:scheduler": "ddim",
        "mold:frames": "97",
        "mold:fps": "24",
    }
    assert data.count(b"iTXt") == 6


def test_a_jpeg_has_the_comment_right_after_its_start() -> None:
    data = opened("jpeg", METADATA)
    assert data[:4] == b"\xff\xd8\xff\xfe"
    assert data[6:].startswith(b'mold:parameters {"prompt": "a glowing robot", ')
    with Image.open(BytesIO(data)) as image:
        assert image.info["comment"] == b"mold:parameters " + METADATA.to_json().encode()


@pytest.mark.parametrize("format", ["jpeg", "webp"])
@pytest.mark.parametrize("prompt", ["plain", "lines", "quotes", "xml", "spoof", "emoji", "controls"])
def test_xmp_is_well_formed_and_holds_the_fields(format: Literal["jpeg", "webp"], prompt: str) -> None:
    metadata = attrs.evolve(FULL, prompt=PROMPTS[prompt])
    with Image.open(BytesIO(opened(format, metadata))) as image:
        packet = image.info["xmp"]
    found = {element.tag: element.text for element in ElementTree.fromstring(packet).iter()}
    mold = "{urn:mold:metadata:1#}"
    assert OutputMetadata.from_json(found[mold + "parameters"] or "") == metadata
    assert (found[mold + "seed"], found[mold + "lora"]) == ("18446744073709551615", "style.safetensors")
    if prompt != "controls":
        assert found[mold + "prompt"] == metadata.prompt


def test_a_jpeg_with_a_long_prompt_has_several_comments_and_no_xmp() -> None:
    data = opened("jpeg", attrs.evolve(METADATA, prompt=PROMPTS["long"]))
    markers = [marker for marker, _ in jpeg_segments(BytesIO(data))]
    assert markers[:2] == [0xFE, 0xFE]
    assert 0xE1 not in markers


def test_a_jpeg_that_lost_its_comment_is_read_from_its_xmp() -> None:
    data = opened("jpeg", METADATA)
    comment_size = 2 + int.from_bytes(data[4:6], "big")
    assert read_metadata(data[:2] + data[2 + comment_size :]) == METADATA


def test_xmp_written_as_attributes_is_read_too() -> None:
    attribute = METADATA.to_json().replace('"', "&quot;")
    xmp = f'<rdf:Description mold:parameters="{attribute}"/>'.encode()
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "WEBP", xmp=xmp)
    assert read_metadata(buffer.getvalue()) == METADATA


def test_a_transparent_webp_stays_transparent() -> None:
    image = Image.new("RGBA", (9, 7), (200, 30, 40, 90))
    for lossless in (True, False):
        data = encode_image(image, "webp", METADATA, lossless=lossless)
        with Image.open(BytesIO(data)) as again:
            assert (again.mode, again.size) == ("RGBA", (9, 7))
            assert again.getpixel((3, 3))[3] == 90  # type: ignore[index]
        assert read_metadata(data) == METADATA


def test_animated_images_carry_it_too() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    for format in ("PNG", "WEBP", "GIF"):
        buffer = BytesIO()
        frames[0].save(buffer, format, save_all=True, append_images=frames[1:], duration=40, loop=0)
        data = embed_metadata(buffer.getvalue(), FULL)
        assert read_metadata(data) == FULL
        with Image.open(BytesIO(data)) as image:
            assert image.n_frames == 3  # type: ignore[attr-defined]
            image.seek(2)
            assert image.convert("RGB").getpixel((4, 4)) == pytest.approx((0, 0, 255), abs=3)


def test_a_gif_still_says_first_how_often_it_plays() -> None:
    buffer = BytesIO()
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime")]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], loop=0)
    data = embed_metadata(buffer.getvalue(), FULL)
    assert data[gif_header_bytes(data) :].startswith(b"!\xff\x0bNETSCAPE2.0")
    with Image.open(BytesIO(data)) as image:
        assert image.info["loop"] == 0


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("palette", [None, 2, 256])
def test_every_prompt_comes_back_from_a_gif(prompt: str, palette: int | None) -> None:
    buffer = BytesIO()
    image = Image.radial_gradient("L").resize((64, 48)).quantize(palette or 16)
    image.save(buffer, "GIF", comment=b"mold:parameters is not all of it")
    plain = buffer.getvalue()
    if palette is None:  # a file without a palette for all frames has one of its own for each
        colours = gif_header_bytes(plain)
        plain = plain[:10] + bytes((plain[10] & 0x7F,)) + plain[11:13] + plain[colours:]
    metadata = attrs.evolve(METADATA, prompt=prompt)
    data = embed_metadata(plain, metadata)
    assert read_metadata(data) == metadata
    assert read_metadata(plain) is None
    if palette is not None:
        with Image.open(BytesIO(data)) as after, Image.open(BytesIO(plain)) as before:
            assert after.tobytes() == before.tobytes()


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "iTXt compressed"])
def test_every_kind_of_png_text_is_read(kind: str) -> None:
    text = METADATA.to_json().encode()
    bodies = {
        "tEXt": b"mold:parameters\0" + text,
        "zTXt": b"mold:parameters\0\0" + zlib.compress(text),
        "iTXt": b"mold:parameters\0\0\0en\0key\0" + text,
        "iTXt compressed": b"mold:parameters\0\1\0\0\0" + zlib.compress(text),
    }
    plain = opened("png", None)
    end = len(plain) - 12
    chunk = png_chunk(kind[:4].encode(), bodies[kind])
    assert read_metadata(plain[:33] + chunk + plain[33:]) == METADATA
    assert read_metadata(plain[:end] + chunk + plain[end:]) == METADATA


# --- hostile files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"prompt": 1}',
        METADATA.to_json().replace("42", "-1"),
        METADATA.to_json().replace("42", "9" * 5000),
        METADATA.to_json().replace("3.5", "NaN"),
        METADATA.to_json().replace("3.5", "1e999"),
        METADATA.to_json().replace('"model"', '"mode"'),
    ],
)
def test_parameters_that_make_no_sense_are_no_metadata(text: str) -> None:
    plain = opened("png", None)
    assert read_metadata(plain[:33] + png_chunk(b"tEXt", b"mold:parameters\0" + text.encode()) + plain[33:]) is None


def test_json_with_a_wrong_field_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="seed must be a whole number, not 'x'"):
        OutputMetadata.from_json(METADATA.to_json().replace("42", '"x"'))


def test_unknown_fields_are_ignored() -> None:
    assert OutputMetadata.from_json('{"cfg_plus": true, ' + METADATA.to_json()[1:]) == METADATA


def test_a_text_bomb_is_not_unpacked() -> None:
    plain = opened("png", None)
    bomb = png_chunk(b"zTXt", b"mold:parameters\0\0" + zlib.compress(b" " * 30_000_000, 1))
    tracemalloc.start()
    assert read_metadata(plain[:33] + bomb + plain[33:]) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25_000_000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**32 - 1) + b"iTXt",
        b"\x89PNG\r\n\x1a\n" + (bytes(4) + b"abcd" + bytes(4)) * 500_000,
        b"\xff\xd8" + b"\xff" * 5_000_000,
        b"\xff\xd8\xff\xfe\x00\x00",
        b"\xff\xd8\xff\xfe\xff\xffmold:parameters {",
        b"RIFF\xff\xff\xff\xffWEBPXMP \xff\xff\xff\xff",
        b"RIFF\0\0\0\0WEBP" + b"XXXX\0\0\0\0" * 500_000,
        b"GIF89a",
        b"GIF89a" + bytes(7) + b"!\xfe" + (b"\xff" + b"x" * 255) * 50_000,
        b"GIF89a" + bytes(7) + b"!\xfe\0" * 500_000,
        b"GIF89a" + bytes(7) + b"!\xfe\x10mold:parameters {",
        b"<svg/>",
    ],
)
def test_a_hostile_file_has_no_metadata(data: bytes) -> None:
    assert read_metadata(data) is None


def gif() -> bytes:
    buffer = BytesIO()
    Image.new("P", (8, 8)).save(buffer, "GIF")
    return embed_metadata(buffer.getvalue(), FULL)


@pytest.mark.parametrize("format", [*FORMATS, "gif"])
def test_no_damage_makes_reading_fail(format: Literal[ImageFormat, "gif"]) -> None:
    data, dice = gif() if format == "gif" else opened(format, FULL), random.Random(8)
    for _ in range(300):
        damaged = bytearray(data[: dice.randrange(len(data))] if dice.random() < 0.5 else data)
        for _ in range(min(len(damaged), 3)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        found = read_metadata(bytes(damaged))
        assert found is None or isinstance(found, OutputMetadata)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_metadata(tmp_path / "none.png")
