"""Detects truncated media files from their structure, without decoding."""

from __future__ import annotations

from typing import BinaryIO

from mold_core.media.containers import (
    MAX_CHUNKS,
    PNG_SIGNATURE,
    gif_header_bytes,
    image_format,
    is_gif,
    jpeg_segments,
    png_chunks,
)

__all__ = ["is_truncated"]

_PIECE_BYTES = 1 << 20
# Larger GIFs and MP4s with more boxes are assumed to be complete, because checking every block takes too long.
_MAX_GIF_BYTES = 256 << 20
_MAX_BOXES = 100_000

_JPEG_END = b"\xff\xd9"
_GIF_EXTENSION, _GIF_IMAGE, _GIF_END = 0x21, 0x2C, 0x3B


def is_truncated(file: BinaryIO, size_bytes: int) -> bool:
    """Return whether a PNG, JPEG, WebP, GIF or MP4 file is truncated or lacks its index. False for other formats."""
    file.seek(0)
    head = file.read(16)
    if head[4:8] == b"ftyp":
        return _mp4_is_truncated(file, size_bytes)
    if is_gif(head):
        return _gif_is_truncated(file)
    match image_format(head):
        case "png":
            return _png_is_truncated(file)
        case "jpeg":
            return _jpeg_is_truncated(file)
        case "webp":
            return int.from_bytes(head[4:8], "little") + 8 > size_bytes
    return False


def _png_is_truncated(file: BinaryIO) -> bool:
    end, chunks = len(PNG_SIGNATURE), 0
    for _, length in png_chunks(file):
        end, chunks = end + 8 + length + 4, chunks + 1
    file.seek(end)
    return chunks < MAX_CHUNKS and file.read(12)[4:8] != b"IEND"


def _jpeg_is_truncated(file: BinaryIO) -> bool:
    # After the header segments, which may contain a thumbnail JPEG, the end marker occurs only at the end.
    end = 2
    for _, length in jpeg_segments(file):
        end = file.tell() + length
    file.seek(end)
    last = b""
    while piece := file.read(_PIECE_BYTES):
        if _JPEG_END in last + piece:
            return False
        last = piece[-1:]
    return True


def _gif_is_truncated(file: BinaryIO) -> bool:
    file.seek(0)
    data = file.read(_MAX_GIF_BYTES)
    if len(data) == _MAX_GIF_BYTES:
        return False
    offset = gif_header_bytes(data[:13])
    while offset < len(data):
        kind = data[offset]
        if kind == _GIF_EXTENSION:
            offset = _after_blocks(data, offset + 2)
        elif kind == _GIF_IMAGE:
            flags = data[offset + 9] if offset + 9 < len(data) else 0
            palette = 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
            offset = _after_blocks(data, offset + 10 + palette + 1)
        else:
            return kind != _GIF_END
    return True


def _after_blocks(data: bytes, offset: int) -> int:
    while offset < len(data) and data[offset]:
        offset += 1 + data[offset]
    return offset + 1


def _mp4_is_truncated(file: BinaryIO, size_bytes: int) -> bool:
    offset, indexed = 0, False
    for _ in range(_MAX_BOXES):
        file.seek(offset)
        header = file.read(16)
        if len(header) < 8:
            break
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:
            length = size_bytes - offset
        indexed = indexed or header[4:8] == b"moov"
        if length < 8 or offset + length > size_bytes:
            return True
        offset += length
    return not indexed
