"""Read an image for upscaling: its samples as stored in the file, and the file's metadata."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from mold_core.media.color_profiles import to_srgb
from mold_core.media.containers import image_format, png_chunks
from mold_core.media.images import DEFAULT_MAX_PIXELS, open_image, upright
from mold_core.media.metadata import OutputMetadata, read_metadata
from mold_core.media.png_transparency import color_key_alpha, deep_color_key
from mold_core.upscaling.deep_png import is_deep_png, read_deep_png
from mold_core.upscaling.pixels import tensor_of
from mold_core.upscaling.plan import Span

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

__all__ = ["SourceImage", "read_image"]

_ORIENTATION = 0x0112

# Limit of texts of other programs in a PNG that are copied, in bytes in total.
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_MAX_TEXT_BYTES = 1 << 20

# Chunks that define the meaning of samples, which is the same in the upscaled image.
_MEANING_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP")


@attrs.frozen(kw_only=True, eq=False)
class SourceImage:
    """The samples of an image, uint8 or uint16 [H, W, C] with C of 1 (grey), 2 (with alpha), 3 or 4, upright.

    `icc` is its colour profile, `exif` its EXIF with the orientation reset, `dpi` its resolution. `texts` are raw PNG
    chunks of other programs, `meaning` those that define the meaning of samples. `metadata` is mold's own.
    """

    samples: Tensor
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    texts: tuple[tuple[bytes, bytes], ...] = ()
    meaning: tuple[tuple[bytes, bytes], ...] = ()
    metadata: OutputMetadata | None = None

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return int(self.samples.shape[0])

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return int(self.samples.shape[1])

    @property
    def channels(self) -> int:
        """Samples per pixel."""
        return int(self.samples.shape[2])

    @property
    def bits(self) -> int:
        """Bits per sample: 8 or 16."""
        return 8 if self.samples.dtype == torch.uint8 else 16

    def read(self, rows: Span, columns: Span) -> Tensor:
        """Return a region as float32 [C, rows, columns] in 0..1, with 3 colours, plus alpha if the image has it."""
        part = self.samples[rows.start : rows.stop, columns.start : columns.stop]
        values: Tensor = part.permute(2, 0, 1).to(torch.float32) / (2**self.bits - 1)
        if self.channels > 2:
            return values
        return torch.cat((values[:1].expand(3, -1, -1), values[1:]))

    def samples_of(self, strip: Tensor) -> Tensor:
        """Convert float32 [3 or 4, rows, width] to samples in the format of this image, [rows, width, C]."""
        if self.channels < 3:
            strip = torch.cat((strip[:3].mean(dim=0, keepdim=True), strip[3:]))
        most = 2**self.bits - 1
        levels = strip.mul(most).round_().clamp_(0, most).permute(1, 2, 0)
        return levels.to(torch.uint8) if self.bits == 8 else levels.to(torch.int32).to(torch.uint16)


def read_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str = "image") -> SourceImage:
    """Return the image in `data`, an untrusted PNG, JPEG, WebP, AVIF or HEIC file. Raises ValidationError for `name`.

    Palettes become colours, CMYK becomes sRGB, one bit becomes grey, and a transparent color becomes alpha. 16 bits per
    sample are kept, except in interlaced colour PNGs, which are reduced to 8.
    """
    file = open_image(data, max_pixels=max_pixels, name=name)
    exif = file.info.get("exif")
    raw_exif = exif if isinstance(exif, bytes) else None
    if file.format == "PNG" and is_deep_png(data) and not file.mode.startswith("I"):
        samples = _turned(_with_color_key(read_deep_png(data, name), deep_color_key(file, data)), raw_exif)
    else:
        alpha = color_key_alpha(file, data) if file.format == "PNG" else None
        samples = _samples(upright(_plain(file, keyed=alpha is not None), raw_exif))
        if alpha is not None:
            samples = _with_alpha(samples, _samples(upright(alpha, raw_exif)))
    kept = _kept_chunks(data) if image_format(data) == "png" else ()
    icc = file.info.get("icc_profile")
    dpi = file.info.get("dpi")
    return SourceImage(
        samples=samples,
        icc=icc if isinstance(icc, bytes) and file.mode != "CMYK" else None,
        exif=_without_orientation(raw_exif) if raw_exif else None,
        dpi=(float(dpi[0]), float(dpi[1])) if isinstance(dpi, tuple) and len(dpi) == 2 else None,
        texts=tuple(chunk for chunk in kept if chunk[0] in _TEXT_CHUNKS),
        meaning=tuple(chunk for chunk in kept if chunk[0] in _MEANING_CHUNKS),
        metadata=read_metadata(data),
    )


def _with_color_key(samples: Tensor, key: tuple[int, ...] | None) -> Tensor:
    """Return samples uint16 [H, W, C] with alpha 0 where they have the transparent color."""
    if key is None:
        return samples
    matches = (samples.to(torch.int32) == torch.tensor(key, dtype=torch.int32)).all(dim=-1, keepdim=True)
    return _with_alpha(samples, (~matches).to(torch.uint8) * 255)


def _with_alpha(samples: Tensor, alpha: Tensor) -> Tensor:
    """Return samples [H, W, C] with alpha uint8 [H, W, 1] as an additional channel."""
    if samples.dtype == torch.uint8:
        return torch.cat((samples, alpha), dim=-1)
    return torch.cat((samples.to(torch.int32), alpha.to(torch.int32) * 257), dim=-1).to(torch.uint16)


def _plain(file: ImageFile, *, keyed: bool) -> Image:
    """Return the image in the mode L, LA, RGB, RGBA or I;16 that loses nothing.

    With `keyed`, transparency is added later.
    """
    if file.mode == "CMYK":
        return to_srgb(file.convert("RGB"), file.info.get("icc_profile"), file)
    if keyed:
        return file
    if file.mode.startswith("I") or (file.mode in ("L", "LA", "RGB", "RGBA") and not file.has_transparency_data):
        return file
    if file.mode in ("LA", "RGBA"):
        return file
    if file.mode == "1":
        return file.convert("L")
    if file.has_transparency_data:
        return file.convert("LA" if file.mode == "L" else "RGBA")
    return file.convert("RGB")


def _samples(image: Image) -> Tensor:
    width, height = image.size
    if image.mode.startswith("I"):
        if not image.mode.startswith("I;16"):
            image = image.convert("I;16")
        order = "big" if image.mode.endswith("B") else "little"
        pairs = tensor_of(image.tobytes(), height, width, 2).to(torch.int32)
        high, low = (pairs[..., 0], pairs[..., 1]) if order == "big" else (pairs[..., 1], pairs[..., 0])
        return (high * 256 + low).to(torch.uint16)[..., None]
    return tensor_of(image.tobytes(), height, width, len(image.getbands()))


def _turned(samples: Tensor, exif: bytes | None) -> Tensor:
    """Return samples rotated upright, like `mold_core.media.images.upright` for images."""
    from mold_core.media.images import orientation

    wide = samples.to(torch.int32)  # torch cannot flip uint16
    match orientation(exif) if exif else 1:
        case 2:
            wide = wide.flip(1)
        case 3:
            wide = wide.flip(0, 1)
        case 4:
            wide = wide.flip(0)
        case 5:
            wide = wide.transpose(0, 1)
        case 6:
            wide = wide.transpose(0, 1).flip(1)
        case 7:
            wide = wide.transpose(0, 1).flip(0, 1)
        case 8:
            wide = wide.transpose(0, 1).flip(0)
        case _:
            return samples
    return wide.contiguous().to(torch.uint16)


def _without_orientation(exif: bytes) -> bytes | None:
    """Return EXIF with orientation 1. Unreadable EXIF is dropped, because it could rotate the upscaled image again."""
    from PIL.Image import Exif

    tags = Exif()
    try:
        tags.load(exif)
        if tags.get(_ORIENTATION, 1) == 1:
            return exif
        tags[_ORIENTATION] = 1
        return b"Exif\0\0" + tags.tobytes().removeprefix(b"Exif\0\0")
    except (ValueError, SyntaxError, KeyError, TypeError, struct.error, OSError):
        return None


def _kept_chunks(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Return type and body of the chunks of a PNG that apply to the upscaled image too, except mold's own."""
    kept: list[tuple[bytes, bytes]] = []
    bytes_left = _MAX_TEXT_BYTES
    file = BytesIO(data)
    for kind, length in png_chunks(file):
        if kind in (*_TEXT_CHUNKS, *_MEANING_CHUNKS) and length <= bytes_left:
            body = file.read(length)
            if not body.startswith(b"mold:"):
                kept.append((kind, body))
                bytes_left -= length
    return tuple(kept)
