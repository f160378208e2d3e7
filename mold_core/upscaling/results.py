"""Write the upscaled image: a PNG row by row, a JPEG or WebP at the end."""

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
    """The file that is being written."""

    def write(self, rows: Tensor) -> None:
        """Add rows of samples [rows, width, C], from the top."""

    def close(self) -> None:
        """Finish the file."""


def open_result(file: BinaryIO, format: ImageFormat, source: SourceImage, scale: int, *, upscaler: str) -> Result:
    """Return a writer of the upscaled `source` to `file`.

    It preserves colour profile, EXIF, resolution, and mold's own metadata, to which it adds the name of the upscaler.
    Texts of other programs are copied from PNG to PNG. Raises ValidationError if the image is too large.
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
        if kind != b"sRGB" or source.icc is None:  # a PNG may have only one of them
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
    """An image that is encoded when it is complete."""

    def __init__(self, file: BinaryIO, format: ImageFormat, source: SourceImage, width: int, height: int) -> None:
        self._file = file
        self._format = format
        self._source = source
        self._samples = torch.empty((height, width, source.channels), dtype=torch.uint8)
        self._rows = 0

    def write(self, rows: Tensor) -> None:
        """Keep rows; 16-bit samples are reduced to their upper 8 bits, because these formats have 8."""
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
