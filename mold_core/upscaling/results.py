"""Where the larger picture goes: a PNG row by row, or a JPEG or WebP at the end."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, BinaryIO, Protocol

import attrs
import torch
from torch import Tensor

from mold_core.media.containers import png_chunk
from mold_core.media.formats import ImageFormat
from mold_core.media.images import check_sides, encode_image
from mold_core.media.metadata import png_metadata
from mold_core.upscaling.pictures import Picture
from mold_core.upscaling.pixels import bytes_of
from mold_core.upscaling.png_stream import PngStream

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Result", "open_result"]

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_METRE = 39.37  # inches


class Result(Protocol):
    """The file that is being made."""

    def write(self, rows: Tensor) -> None:
        """Add rows of samples [rows, width, C], from the top."""

    def close(self) -> None:
        """Finish the file."""


def open_result(file: BinaryIO, format: ImageFormat, picture: Picture, scale: int, *, upscaler: str) -> Result:
    """Return a result for `picture` enlarged, that is written to `file`.

    It keeps what the picture's file said: colour profile, EXIF, resolution, and mold's own metadata with the name of
    the upscaler in it. Texts of other programs go from PNG to PNG. Raises ValidationError if it is too large.
    """
    width, height = picture.width * scale, picture.height * scale
    check_sides(width, height, format)
    picture = _with_upscaler(picture, upscaler)
    if format == "png":
        chunks = _chunks(picture, upscaler)
        return PngStream(file, width, height, picture.channels, bits=picture.bits, chunks=chunks)
    return _Collected(file, format, picture, width, height)


def _with_upscaler(picture: Picture, upscaler: str) -> Picture:
    if picture.metadata is None:
        return picture
    return attrs.evolve(picture, metadata=attrs.evolve(picture.metadata, upscaler=upscaler))


def _chunks(picture: Picture, upscaler: str) -> list[bytes]:
    """Return the PNG chunks before the pixels, in the order of §5.6 of the specification."""
    chunks = []
    if picture.icc is not None:
        chunks.append(png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.icc)))
    for kind, body in picture.meaning:
        if kind != b"sRGB" or picture.icc is None:  # a PNG has one of the two
            chunks.append(png_chunk(kind, body))
    if picture.dpi is not None:
        dots = b"".join(min(round(value * _METRE), 2**31 - 1).to_bytes(4, "big") for value in picture.dpi)
        chunks.append(png_chunk(b"pHYs", dots + b"\x01"))
    if picture.exif is not None:
        chunks.append(png_chunk(b"eXIf", picture.exif.removeprefix(b"Exif\0\0")))
    chunks += [png_chunk(kind, body) for kind, body in picture.texts]
    if picture.metadata is not None:
        chunks.append(png_metadata(picture.metadata))
    else:
        chunks.append(png_chunk(b"tEXt", b"mold:upscaler\0" + upscaler.encode("latin-1", "replace")))
    return chunks


class _Collected:
    """A picture that is encoded when all of it is there."""

    def __init__(self, file: BinaryIO, format: ImageFormat, picture: Picture, width: int, height: int) -> None:
        self._file = file
        self._format = format
        self._picture = picture
        self._samples = torch.empty((height, width, picture.channels), dtype=torch.uint8)
        self._rows = 0

    def write(self, rows: Tensor) -> None:
        """Keep rows; of 16 bits the upper 8, which is what these formats hold."""
        if rows.dtype == torch.uint16:
            rows = (rows.to(torch.int32) >> 8).to(torch.uint8)
        self._samples[self._rows : self._rows + len(rows)] = rows
        self._rows += len(rows)

    def close(self) -> None:
        """Encode the picture and write the file."""
        picture = self._picture
        self._file.write(
            encode_image(self._image(), self._format, picture.metadata, icc=picture.icc, exif=picture.exif)
        )

    def _image(self) -> Image:
        from PIL import Image as images

        height, width, channels = self._samples.shape
        return images.frombytes(_MODES[channels], (width, height), bytes_of(self._samples))
