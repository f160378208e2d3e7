"""Image files in and out: kinds of samples, and what else files say."""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import Any

import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin
from torch import Tensor

from mold_core import ValidationError
from mold_core.media import OutputMetadata, embed_metadata, encode_image, read_metadata
from mold_core.media.containers import PNG_SIGNATURE, png_chunk
from mold_core.upscaling.enlarge import Enlarger
from mold_core.upscaling.images import read_image
from mold_core.upscaling.pixels import bytes_of, tensor_of
from mold_core.upscaling.png_stream import PngStream
from mold_core.upscaling.results import open_result

METADATA = OutputMetadata(
    prompt="a white cat", model="flux-nano:bf16", seed=1, steps=4, guidance=0.0, width=128, height=128, version="1"
)


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def doubled(data: bytes, format: Any = "png") -> bytes:
    """Enlarge a file by repeating every pixel."""
    from torch.nn import functional as F

    from mold_core import UpscalerNetwork

    network = UpscalerNetwork(module=lambda x: F.interpolate(x, scale_factor=2), scale=2, size_bytes=0)
    image, buffer = read_image(data), BytesIO()
    result = open_result(buffer, format, image, 2, upscaler="twice:fp32")
    for strip in Enlarger(network, "cpu", tile=64).strips(image.read, image.height, image.width):
        result.write(image.samples_of(strip))
    result.close()
    return buffer.getvalue()


def noise(*shape: int, most: int = 255) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    values = torch.randint(0, most + 1, shape, generator=generator, dtype=torch.int32)
    return values.to(torch.uint8 if most == 255 else torch.uint16)


def image_of(samples: Tensor) -> Image.Image:
    height, width, channels = samples.shape
    return Image.frombytes({1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels], (width, height), bytes_of(samples))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_streamed_png_of_8_bits_holds_what_was_written(channels: int) -> None:
    samples, buffer = noise(37, 53, channels), BytesIO()
    samples[10:20] = 200  # flat rows and lively ones take different filters
    stream = PngStream(buffer, 53, 37, channels)
    for first in (0, 1, 30):
        stream.write(samples[first : {0: 1, 1: 30, 30: 37}[first]])
    stream.close()
    image = Image.open(buffer)
    image.load()
    assert torch.equal(tensor_of(image.tobytes(), 37, 53, channels), samples)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_are_read_and_written_in_full(channels: int) -> None:
    samples, buffer = noise(600, 7, channels, most=65_535), BytesIO()
    stream = PngStream(buffer, 7, 600, channels, bits=16)
    stream.write(samples)
    stream.close()
    again = read_image(buffer.getvalue())
    assert again.bits == 16 and torch.equal(again.samples.to(torch.int32), samples.to(torch.int32))


@pytest.mark.parametrize("kind", range(5))
def test_every_filter_of_deep_pngs_is_undone(kind: int) -> None:
    """Rows with every filter in turn, against Pillow, which reads the upper 8 bits of them."""
    raw = bytes(
        (kind + row) % 5 if byte == 0 else (row * 31 + byte * 17) % 256 for row in range(9) for byte in range(67)
    )
    header = (11).to_bytes(4, "big") + (9).to_bytes(4, "big") + bytes((16, 2, 0, 0, 0))
    chunks = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(raw)), png_chunk(b"IEND", b"")]
    data = PNG_SIGNATURE + b"".join(chunks)
    upper = (read_image(data).samples.to(torch.int32) >> 8).to(torch.uint8)
    image = Image.open(BytesIO(data))
    assert image.mode == "RGB" and torch.equal(upper, tensor_of(image.tobytes(), 9, 11, 3))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_grey_stays_grey_and_alpha_alpha(mode: str) -> None:
    samples = noise(70, 90, len(mode))
    made = Image.open(BytesIO(doubled(saved(image_of(samples)))))
    assert made.mode == mode and made.size == (180, 140)
    got = tensor_of(made.tobytes(), 140, 180, len(mode))[::2, ::2]
    if "A" not in mode:
        assert torch.equal(got, samples)
    else:  # colours that cannot be seen may change
        seen = samples[..., -1] > 0
        assert torch.equal(got[seen], samples[seen]) and torch.equal(got[..., -1], samples[..., -1])


@pytest.mark.parametrize(("mode", "becomes"), [("1", "L"), ("P", "RGB"), ("I;16", "I;16")])
def test_other_modes_become_what_loses_nothing(mode: str, becomes: str) -> None:
    grey = image_of(noise(20, 30, 1))
    image = grey.convert(mode) if mode != "I;16" else Image.frombytes("I;16", (30, 20), bytes_of(noise(20, 30, 2)))
    assert Image.open(BytesIO(doubled(saved(image)))).mode == becomes


def test_a_image_lying_on_its_side_comes_out_upright_and_says_so() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    lying = image_of(noise(20, 30, 3))
    made = Image.open(BytesIO(doubled(saved(lying, exif=exif))))
    assert made.size == (40, 60)
    assert made.getexif()[0x0112] == 1 and made.getexif()[0x010F] == "a camera"
    assert (
        made.resize((20, 30), Image.Resampling.NEAREST).tobytes()
        == lying.transpose(Image.Transpose.ROTATE_270).tobytes()
    )


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_colour_profile_and_metadata_are_kept_with_the_upscaler_added(format: Any) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    source = embed_metadata(saved(image_of(noise(20, 30, 3)), icc_profile=profile, exif=exif), METADATA)
    data = doubled(source, format)
    made = Image.open(BytesIO(data))
    assert made.info["icc_profile"] == profile
    assert made.getexif()[0x010F] == "a camera"
    metadata = read_metadata(data)
    assert metadata is not None and metadata.upscaler == "twice:fp32"
    assert (metadata.prompt, metadata.seed, metadata.width) == ("a white cat", 1, 128)


def test_texts_of_other_programs_and_the_resolution_are_kept() -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", "a cat, 20 steps")
    made = Image.open(BytesIO(doubled(saved(image_of(noise(8, 8, 3)), pnginfo=texts, dpi=(300, 300)))))
    made.load()
    assert made.text["parameters"] == "a cat, 20 steps"  # type: ignore[attr-defined]
    assert made.text["mold:upscaler"] == "twice:fp32"  # type: ignore[attr-defined]
    assert made.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_a_image_that_is_too_wide_for_the_format_is_refused_before_any_work() -> None:
    data = encode_image(Image.new("RGB", (8200, 1)), "png")
    with pytest.raises(ValidationError, match="output_format webp holds at most 16,383 pixels a side"):
        doubled(data, "webp")


@pytest.mark.parametrize("cut", [0.3, 0.9])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_file_that_breaks_off_is_refused(cut: float, bits: int) -> None:
    buffer = BytesIO()
    stream = PngStream(buffer, 50, 50, 3, bits=bits)
    stream.write(noise(50, 50, 3, most=2**bits - 1))
    stream.close()
    data = buffer.getvalue()
    with pytest.raises(ValidationError, match="is a PNG file that is truncated or damaged"):
        read_image(data[: int(len(data) * cut)])
