"""Where the larger image goes: a PNG row by row, or a JPEG or WebP at the end."""

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
from mold_core.upscaling.images import SourceImage
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


def open_result(file: BinaryIO, format: ImageFormat, source: SourceImage, scale: int, *, upscaler: str) -> Result:
    """Return a result for `image` enlarged, that is written to `file`.

    It keeps what the image's file said: colour profile, EXIF, resolution, and mold's own metadata with the name of
    the upscaler in it. Texts of other programs go from PNG to PNG. Raises ValidationError if it is too large.
    """
    width, height = source.width * scale, source.height * scale
    check_sides(width, height, format)
    source = _with_upscaler(source, upscaler)
    if format == "png":
        chunks = _chunks(source, upscaler)
        return PngStream(file, width, height, source.channels, bits=source.bits, chunks=chunks)
    return _Collected(file, format, source, width, height)


def _with_upscaler(source: SourceImage, upscaler: str) -> SourceImage:
    if source.metadata is None:
        return source
    return attrs.evolve(source, metadata=attrs.evolve(source.metadata, upscaler=upscaler))


def _chunks(source: SourceImage, upscaler: str) -> list[bytes]:
    """Return the PNG chunks before the pixels, in the order of §5.6 of the specification."""
    chunks = []
    if source.icc is not None:
        chunks.append(png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(source.icc)))
    for kind, body in source.meaning:
        if kind != b"sRGB" or source.icc is None:  # a PNG has one of the two
            chunks.append(png_chunk(kind, body))
    if source.dpi is not None:
        dots = b"".join(min(round(value * _METRE), 2**31 - 1).to_bytes(4, "big") for value in source.dpi)
        chunks.append(png_chunk(b"pHYs", dots + b"\x01"))
    if source.exif is not None:
        chunks.append(png_chunk(b"eXIf", source.exif.removeprefix(b"Exif\0\0")))
    chunks += [png_chunk(kind, body) for kind, body in source.texts]
    if source.metadata is not None:
        chunks.append(png_metadata(source.metadata))
    else:
        chunks.append(png_chunk(b"tEXt", b"mold:upscaler\0" + upscaler.encode("latin-1", "replace")))
    return chunks


class _Collected:
    """An image that is encoded when all of it is there."""

    def __init__(self, file: BinaryIO, format: ImageFormat, source: SourceImage, width: int, height: int) -> None:
        self._file = file
        self._format = format
        self._source = source
        self._samples = torch.empty((height, width, source.channels), dtype=torch.uint8)
        self._rows = 0

    def write(self, rows: Tensor) -> None:
        """Keep rows; of 16 bits the upper 8, which is what these formats hold."""
        if rows.dtype == torch.uint16:
            rows = (rows.to(torch.int32) >> 8).to(torch.uint8)
        self._samples[self._rows : self._rows + len(rows)] = rows
        self._rows += len(rows)

    def close(self) -> None:
        """Encode the image and write the file."""
        source = self._source
        self._file.write(encode_image(self._image(), self._format, source.metadata, icc=source.icc, exif=source.exif))

    def _image(self) -> Image:
        from PIL import Image as images

        height, width, channels = self._samples.shape
        return images.frombytes(_MODES[channels], (width, height), bytes_of(self._samples))
