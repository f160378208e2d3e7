"""Read the sizes of all frames of a GIF, APNG or WebP from their headers, before any frame is decoded.

Pillow allocates a canvas as large as the largest frame of a GIF, and decodes a frame before its size can be checked.
Sources: GIF89a §§18 to 23, RFC 9649 §2.7, PNG specification 3rd edition §11.3.5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO

from mold_core.media.containers import gif_header_bytes, image_format, is_gif, png_chunks, riff_chunks, webp_canvas
from mold_core.media.limits import check_frame

__all__ = ["check_animation", "frame_sizes"]

_MAX_GIF_BLOCKS = 2_000_000
_GIF_IMAGE = 0x2C
_GIF_EXTENSION = 0x21
_IMAGE = "the image"


def check_animation(data: bytes, max_pixels: int) -> None:
    """Raise ValidationError if a frame, or the canvas of all frames, has more than `max_pixels`."""
    for width, height in frame_sizes(data):
        check_frame(width, height, max_pixels, _IMAGE)


def frame_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the right and lower edge of the canvas, then those of each frame."""
    try:
        if is_gif(data):
            yield from _gif_sizes(data)
        elif image_format(data) == "webp":
            yield from _webp_sizes(data)
        elif image_format(data) == "png":
            yield from _png_sizes(data)
    except struct.error:  # truncated
        return


def _gif_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    yield struct.unpack_from("<HH", data, 6)
    offset = gif_header_bytes(data[:13])
    for _ in range(_MAX_GIF_BLOCKS):
        kind = data[offset : offset + 1]
        if kind == bytes((_GIF_EXTENSION,)):
            offset = _after_blocks(data, offset + 2)
        elif kind == bytes((_GIF_IMAGE,)):
            left, top, width, height, flags = struct.unpack_from("<HHHHB", data, offset + 1)
            yield left + width, top + height
            palette = 3 << ((flags & 7) + 1) if flags & 0x80 else 0
            offset = _after_blocks(data, offset + 10 + palette + 1)
        elif kind and kind != b";":
            offset += 1  # Pillow skips unknown data byte by byte
        else:
            return


def _after_blocks(data: bytes, offset: int) -> int:
    """Return the offset after a sequence of blocks, each preceded by its length."""
    while offset < len(data) and data[offset]:
        offset += 1 + data[offset]
    return offset + 1


def _webp_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    canvas = webp_canvas(data)
    if canvas:
        yield canvas[0], canvas[1]
    file = BytesIO(data)
    for kind, _length in riff_chunks(file):
        if kind == b"ANMF":
            left, top, width, height = (int.from_bytes(file.read(3), "little") for _ in range(4))
            yield 2 * left + width + 1, 2 * top + height + 1


def _png_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    file = BytesIO(data)
    for kind, _length in png_chunks(file):
        if kind == b"IHDR":
            yield struct.unpack(">II", file.read(8))
        elif kind == b"fcTL":
            width, height, left, top = struct.unpack(">4xIIII", file.read(20))
            yield left + width, top + height
