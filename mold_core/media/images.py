"""Encode and decode still images."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from io import BytesIO
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mold_core.errors import ValidationError
from mold_core.media.color_profiles import rgb_profile, to_srgb
from mold_core.media.containers import SourceFormat, is_cut_off, source_format, too_many_parts, webp_canvas
from mold_core.media.formats import ImageFormat
from mold_core.media.metadata import OutputMetadata, embed_metadata
from mold_core.media.png_transparency import color_key_alpha, scale_color_key

# PERF: Pillow takes 40 ms to import, so it is imported with the first image.
if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "check_image",
    "check_sides",
    "decode_image",
    "decode_image_as_stored",
    "encode_image",
    "open_image",
    "orientation",
    "upright",
]

DEFAULT_MAX_PIXELS = 32_000_000

# PERF: zlib-ng's level 4 takes 72 ms for a clean 1024x1024 image and 1.8 ms for 128x128; Pillow's default, 6, takes
# 196 and 4.3 ms to save 4 % of the bytes, and level 1 takes 49 and 1.1 ms for 21 % more.
_PNG_COMPRESSION = 4
_JPEG_QUALITY = 95
_WEBP_QUALITY = 90
_WEBP_LOSSLESS_EFFORT = 50  # PERF: 90 takes twice the time to save 0.5 % of the bytes

_LARGEST_SIDE: Mapping[ImageFormat, int] = MappingProxyType({"png": 2**31 - 1, "jpeg": 65_500, "webp": 16_383})
_MODES: Mapping[ImageFormat, tuple[str, ...]] = MappingProxyType(
    {"png": ("RGB", "RGBA", "L"), "jpeg": ("RGB", "L"), "webp": ("RGB", "RGBA")}
)

_NAMES: Mapping[SourceFormat, str] = MappingProxyType(
    {"png": "a PNG", "jpeg": "a JPEG", "webp": "a WebP", "avif": "an AVIF", "heic": "a HEIC"}
)
_MAX_PNG_TEXT_BYTES = 8 * 1024 * 1024
_MAX_THREADS = 2
_REPAIR = "open it in an image editor and save it again"


def encode_image(
    image: Image,
    format: ImageFormat,
    metadata: OutputMetadata | None = None,
    *,
    quality: int | None = None,
    lossless: bool = False,
    icc: bytes | None = None,
    exif: bytes | None = None,
) -> bytes:
    """Return `image` as a whole PNG, JPEG or WebP file with `metadata` in it.

    `quality` is 0 to 100 and defaults to 95 for JPEG (always 4:4:4, full colour resolution) and 90 for WebP; PNG has
    none. `lossless` is for WebP; `quality` is then the effort, 50 by default. JPEG has no transparency: the image is
    composited on white. `icc` and `exif` are a colour profile and EXIF to write; metadata of the image object is not
    written. The same arguments give the same bytes.

    Raises ValidationError if the image is too large for the format.
    """
    check_sides(*image.size, format)
    # Importing a plugin registers it. Otherwise Pillow would import all of its 40 plugins to find WebP.
    from PIL import JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401

    webp_default = _WEBP_LOSSLESS_EFFORT if lossless else _WEBP_QUALITY
    options: dict[ImageFormat, dict[str, Any]] = {
        "png": {"compress_level": _PNG_COMPRESSION},
        "jpeg": {"quality": _JPEG_QUALITY if quality is None else quality, "subsampling": "4:4:4"},
        "webp": {"quality": webp_default if quality is None else quality, "lossless": lossless},
    }
    embedded = {name: value for name, value in (("icc_profile", icc), ("exif", exif)) if value is not None}
    buffer = BytesIO()
    _pixels_only(image, _MODES[format]).save(buffer, format=format.upper(), **options[format], **embedded)
    return embed_metadata(buffer.getvalue(), metadata) if metadata else buffer.getvalue()


def check_sides(width: int, height: int, format: ImageFormat) -> None:
    """Raise ValidationError if the format cannot store an image of this size."""
    limit = _LARGEST_SIDE[format]
    if max(width, height) > limit:
        raise ValidationError(
            f"output_format {format} holds at most {limit:,} pixels a side, not {width} x {height}",
            field="output_format",
            value=format,
            hint="choose png",
        )


def decode_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str = "image", srgb: bool = True) -> Image:
    """Return the image in `data`, an untrusted PNG, JPEG, WebP, AVIF or HEIC file, in mode RGB or RGBA in sRGB.

    It is RGBA only if the file has transparency. The image is rotated upright by its EXIF, and its color profile is
    applied; of an animation, the first frame is returned; 16-bit samples keep their upper 8 bits. Only pixels are kept.
    The size is checked before pixels are decoded. Without `srgb`, samples stay as stored, which masks need.

    Raises ValidationError for `name` if the bytes have another format, are damaged, or exceed `max_pixels`.
    """
    file, image = _decoded(data, max_pixels, name)
    if srgb:
        image = to_srgb(image, file.info.get("icc_profile"), file)
    return upright(image, file.info.get("exif"))


def decode_image_as_stored(
    data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str = "image"
) -> tuple[Image, bytes | None]:
    """Return the image in `data` as `decode_image` does, but with its samples as stored, and their color profile.

    Without an RGB profile, the samples are sRGB. Raises as `decode_image` does.
    """
    file, image = _decoded(data, max_pixels, name)
    profile = rgb_profile(file.info.get("icc_profile"), file.mode)
    if profile is None:
        image = to_srgb(image, file.info.get("icc_profile"), file)
    return upright(image, file.info.get("exif")), profile


def _decoded(data: bytes, max_pixels: int, name: str) -> tuple[ImageFile, Image]:
    file = open_image(data, max_pixels=max_pixels, name=name)
    try:
        image = _pixels_only(file, ("RGB", "RGBA"))
        alpha = color_key_alpha(file, data) if file.format == "PNG" else None
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(_known_format(data, name), name) from error
    if alpha is not None:
        image.putalpha(alpha)
    return file, image


def open_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str = "image") -> ImageFile:
    """Return the decoded image in `data` in the mode of the file, with its metadata in `info` and not rotated.

    It makes the same checks as `decode_image` and raises the same ValidationError.
    """
    file = _opened(data, max_pixels, name)
    try:
        file.load()
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(_known_format(data, name), name) from error
    if file.format == "PNG":
        scale_color_key(file, data)
    return file


def check_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str = "image") -> tuple[int, int]:
    """Return width and height in pixels of the image in `data`, as stored. Pixels are not decoded.

    Raises ValidationError for everything that `decode_image` refuses and that is detectable without decoding: another
    format, a truncated file, too many pixels.
    """
    file = _opened(data, max_pixels, name)
    if is_cut_off(data):
        raise _damaged(_known_format(data, name), name)
    return file.width, file.height


def _opened(data: bytes, max_pixels: int, name: str) -> ImageFile:
    """Return the checked file with its header read."""
    format = _known_format(data, name)
    if too_many_parts(data):
        raise _damaged(format, name)
    canvas = webp_canvas(data) if format == "webp" else None
    if canvas:  # libwebp allocates the whole canvas when it opens a file
        _check_size(canvas[0], canvas[1], max_pixels, name)
    try:
        file = _open(data, format, name)
    except (MemoryError, ValidationError):
        raise
    except Exception as error:  # Pillow raises almost any exception for malicious bytes
        raise _damaged(format, name) from error
    _check_size(file.width, file.height, max_pixels, name)
    return file


def _known_format(data: bytes, name: str) -> SourceFormat:
    format = source_format(data)
    if format is None:
        raise ValidationError(
            f"{name} must be a PNG, JPEG, WebP, AVIF or HEIC image, not {_likeness(data)}", field=name
        )
    return format


def _damaged(format: SourceFormat, name: str) -> ValidationError:
    return ValidationError(f"{name} is {_NAMES[format]} file that is truncated or damaged", field=name, hint=_REPAIR)


def _open(data: bytes, format: SourceFormat, name: str) -> ImageFile:
    # NOTE: not Image.open(), which tries other formats, follows a JPEG's multi-image index, and warns about large sizes
    # before they can be refused.
    match format:
        case "png":
            from PIL import PngImagePlugin

            PngImagePlugin.MAX_TEXT_MEMORY = _MAX_PNG_TEXT_BYTES  # the default would decompress 64 MB of text
            return PngImagePlugin.PngImageFile(BytesIO(data))
        case "jpeg":
            from PIL.JpegImagePlugin import JpegImageFile

            return JpegImageFile(BytesIO(data))
        case "webp":
            from PIL.WebPImagePlugin import WebPImageFile

            return WebPImageFile(BytesIO(data))
        case "avif":
            return _avif(data, name)
        case "heic":
            return _heic(data, name)


def _avif(data: bytes, name: str) -> ImageFile:
    from PIL import features

    if not features.check("avif"):
        raise _undecodable("avif", name, "install a Pillow with AVIF, or save the image as PNG or JPEG")
    from PIL import AvifImagePlugin

    AvifImagePlugin.DEFAULT_MAX_THREADS = _MAX_THREADS  # each thread takes address space for its stack
    return AvifImagePlugin.AvifImageFile(BytesIO(data))


def _heic(data: bytes, name: str) -> ImageFile:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise _undecodable("heic", name, "pip install 'mold-core[heif]', or save the image as PNG or JPEG") from None
    file: ImageFile = HeifImageFile(BytesIO(data))  # type: ignore[no-untyped-call]
    return file


def _undecodable(format: SourceFormat, name: str, hint: str) -> ValidationError:
    return ValidationError(f"{name} is {_NAMES[format]} file, which cannot be decoded here", field=name, hint=hint)


def _check_size(width: int, height: int, max_pixels: int, name: str) -> None:
    if width * height > max_pixels:
        raise ValidationError(
            f"{name} has {width} x {height} = {width * height / 1e6:.1f} megapixels, over the limit of"
            f" {max_pixels / 1e6:g}",
            field=name,
            hint="scale it down first",
        )


def _pixels_only(image: Image, modes: tuple[str, ...]) -> Image:
    """Return a copy of `image` in one of `modes`, which include RGB, without the file's metadata."""
    if image.mode.startswith("I"):
        # Pillow's conversion of 16-bit grey clips at 255, which turns depth maps and masks white.
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in modes and "transparency" not in image.info:
        image = image.copy()
    elif not image.has_transparency_data:
        image = image.convert("RGB")
    elif "RGBA" in modes:
        image = image.convert("RGBA")
    else:
        image = _on_white(image.convert("RGBA"))
    image.info = {}
    return image


def _on_white(image: Image) -> Image:
    from PIL import Image as images

    background = images.new("RGBA", image.size, "white")
    background.alpha_composite(image)
    return background.convert("RGB")


def upright(image: Image, exif: object) -> Image:
    """Return the image rotated according to its EXIF."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(orientation(exif)) if isinstance(exif, bytes) else None
    return image if turn is None else image.transpose(turn)


def orientation(exif: bytes) -> int:
    """Return the orientation that EXIF states, 1 (upright) if it states none. Source: TIFF 6.0 and EXIF 2.3 §4.6."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, directory)
        for index in range(entries):
            tag, kind, _count, value = struct.unpack_from(order + "HHIH", tiff, directory + 2 + 12 * index)
            if (tag, kind) == (0x0112, 3):
                return int(value)
    except struct.error:
        pass
    return 1


def _likeness(data: bytes) -> str:
    """Return a description of what the bytes seem to be, for the error message."""
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not data:
        return "an empty file"
    if data[4:8] == b"ftyp":
        return "an MP4 or MOV file"
    if b"<svg" in start:
        return "an SVG drawing"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    for beginning, words in _OTHER_BEGINNINGS.items():
        if data.startswith(beginning):
            return words
    return f"something that begins with the bytes {data[:4].hex(' ')}"


_OTHER_BEGINNINGS: Mapping[bytes, str] = MappingProxyType(
    {
        b"GIF8": "a GIF",
        b"BM": "a BMP image",
        b"II*\0": "a TIFF image",
        b"MM\0*": "a TIFF image",
        b"%PDF": "a PDF",
        b"iVBORw0KGgo": "base64 text of a PNG",
        b"/9j/": "base64 text of a JPEG",
        b"data:": "a data: URL",
    }
)
