"""The container structure of image files: format and chunks. No pixels are decoded.

The iterators accept untrusted files. They read headers and skip bodies, stop without an error at invalid data, and take
at most `MAX_CHUNKS` steps.

Sources: PNG specification 3rd edition §5, JPEG ITU-T T.81 annex B, the WebP container specification (RFC 9649 §2),
GIF89a §§15 to 24, ISO/IEC 23008-12 §10 (brands of HEIF).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO, Literal

from mold_core.media.formats import ImageFormat

__all__ = [
    "MAX_CHUNKS",
    "PNG_SIGNATURE",
    "SourceFormat",
    "gif_comment",
    "gif_comment_place",
    "gif_comments",
    "gif_header_bytes",
    "image_format",
    "image_size",
    "is_cut_off",
    "is_gif",
    "jpeg_segment",
    "jpeg_segments",
    "png_chunk",
    "png_chunks",
    "riff_chunk",
    "riff_chunks",
    "source_format",
    "too_many_parts",
    "webp_canvas",
]

# Image formats that mold reads. It writes ImageFormat.
SourceFormat = Literal[ImageFormat, "avif", "heic"]

MAX_CHUNKS = 10_000
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_MAX_BRANDS_BYTES = 256

_GIF_EXTENSION = 0x21
_GIF_COMMENT = 0xFE
_GIF_APPLICATION = 0xFF
_GIF_MAX_BLOCK = 255

_JPEG_END_OF_IMAGE = 0xD9
_JPEG_START_OF_SCAN = 0xDA
_JPEG_WITHOUT_BODY = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

# Progressive files of cameras and editors have about ten scans. No program writes bytes between header segments.
_MAX_JPEG_SCANS = 50
_MAX_JPEG_JUNK = 64 * 1024


def image_format(data: bytes) -> ImageFormat | None:
    """Return the format of a file by its first 12 bytes, or None if mold does not write that format."""
    if data.startswith(PNG_SIGNATURE):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def source_format(data: bytes) -> SourceFormat | None:
    """Return the format of an image by the first bytes of its file; None if mold cannot read it."""
    if data[4:8] != b"ftyp":
        return image_format(data)
    size = min(int.from_bytes(data[:4], "big"), _MAX_BRANDS_BYTES)
    brands = [data[8:12], *(data[start : start + 4] for start in range(16, size, 4))]
    if any(brand in _AVIF_BRANDS for brand in brands):
        return "avif"
    return "heic" if any(brand in _HEIC_BRANDS for brand in brands) else None


def image_size(file: BinaryIO) -> tuple[int, int] | None:
    """Return width and height of a PNG, JPEG, WebP or GIF file by its header; None if the header is invalid."""
    file.seek(0)
    head = file.read(30)
    size: tuple[int, int] | None = None
    if is_gif(head):
        size = int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
    elif image_format(head) == "png" and head[12:16] == b"IHDR":
        size = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    elif image_format(head) == "webp":
        canvas = webp_canvas(head)
        size = canvas[:2] if canvas else None
    elif image_format(head) == "jpeg":
        size = _jpeg_size(file)
    return size if size and min(size) > 0 else None


def _jpeg_size(file: BinaryIO) -> tuple[int, int] | None:
    for marker, _length in jpeg_segments(file):
        if marker in _JPEG_FRAMES:
            body = file.read(5)
            return int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")
    return None


def is_cut_off(data: bytes) -> bool:
    """Return whether a PNG, JPEG or WebP file is truncated. Only its structure is checked."""
    match image_format(data):
        case "png":
            chunks = list(png_chunks(BytesIO(data)))
            end = len(PNG_SIGNATURE) + sum(8 + length + 4 for _, length in chunks)
            return data[end + 4 : end + 8] != b"IEND"
        case "jpeg":
            return bytes((0xFF, _JPEG_END_OF_IMAGE)) not in data
        case "webp":
            return int.from_bytes(data[4:8], "little") + 8 > len(data)
    return False


def too_many_parts(data: bytes) -> bool:
    """Return whether a PNG or JPEG file has more chunks, scans or filler than legitimate programs write.

    The time to decode such a file is unbounded. Measured with Pillow 13: a JPEG of 32 megapixels takes 50 ms for every
    53 bytes of additional scans, that is, hours for a megabyte; 8 MB of filler or of empty chunks take 1 to 9 s.
    """
    match image_format(data):
        case "png":
            return sum(1 for _ in png_chunks(BytesIO(data))) == MAX_CHUNKS
        case "jpeg":
            return _too_many_jpeg_parts(data)
    return False


def _too_many_jpeg_parts(data: bytes) -> bool:
    position, scans, junk = 2, 0, 0
    for _ in range(MAX_CHUNKS):
        marker = _JPEG_MARKER.search(data, position)
        kind = data[marker.start() + 1] if marker else _JPEG_END_OF_IMAGE
        if scans == 0:
            junk += (marker.start() if marker else len(data)) - position
        scans += kind == _JPEG_START_OF_SCAN
        if scans > _MAX_JPEG_SCANS or junk > _MAX_JPEG_JUNK:
            return True
        if marker is None or kind == _JPEG_END_OF_IMAGE:
            return False
        position = marker.end()
        if kind not in _JPEG_WITHOUT_BODY:
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
    return True


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield type and body length of each chunk up to IEND, with `file` at the start of the body."""
    position = len(PNG_SIGNATURE)
    for _ in range(MAX_CHUNKS):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8 or header[4:] == b"IEND":
            return
        length = int.from_bytes(header[:4], "big")
        yield header[4:], length
        position += 8 + length + 4


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a whole PNG chunk."""
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def jpeg_segments(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yield marker and body length of each segment before the first scan, with `file` at the start of the body."""
    position = 2
    for _ in range(MAX_CHUNKS):
        file.seek(position)
        header = file.read(4)
        if len(header) < 4 or header[0] != 0xFF or header[1] in (_JPEG_END_OF_IMAGE, _JPEG_START_OF_SCAN):
            return
        if header[1] == 0xFF:  # a fill byte
            position += 1
        elif header[1] in _JPEG_WITHOUT_BODY:
            position += 2
        else:
            length = int.from_bytes(header[2:], "big")
            if length < 2:
                return
            yield header[1], length - 2
            position += 2 + length


def jpeg_segment(marker: int, body: bytes) -> bytes:
    """Return a whole JPEG segment. Raises OverflowError if `body` is over 65,533 bytes."""
    return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body


def riff_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield type and body length of each chunk of a WebP file, with `file` at the start of the body."""
    position = 12
    for _ in range(MAX_CHUNKS):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            return
        length = int.from_bytes(header[4:], "little")
        yield header[:4], length
        position += 8 + length + length % 2


def riff_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a whole RIFF chunk, padded to an even length."""
    return kind + len(body).to_bytes(4, "little") + body + b"\0" * (len(body) % 2)


def webp_canvas(data: bytes) -> tuple[int, int, bool] | None:
    """Return width and height in pixels of a WebP file and whether it has transparency, from its first 30 bytes."""
    kind = data[12:16]
    if len(data) < 30:
        return None
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        return width, int.from_bytes(data[27:30], "little") + 1, bool(data[20] & 0x10)
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width = int.from_bytes(data[26:28], "little") & 0x3FFF
        return width, int.from_bytes(data[28:30], "little") & 0x3FFF, False
    return None


def is_gif(data: bytes) -> bool:
    """Return whether a file is a GIF by its first bytes."""
    return data[:6] in (b"GIF87a", b"GIF89a")


def gif_header_bytes(data: bytes) -> int:
    """Return the length of a GIF's header and palette, which precede the blocks, from its first 13 bytes."""
    flags = data[10] if len(data) > 10 else 0
    return 13 + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0)


def gif_comments(file: BinaryIO, most_bytes: int) -> Iterator[bytes]:
    """Yield the comments of a GIF before its first frame, up to `most_bytes` in total."""
    file.seek(0)
    file.seek(gif_header_bytes(file.read(13)))
    read, steps = 0, 0
    for _ in range(MAX_CHUNKS):
        block = file.read(2)
        if len(block) < 2 or block[0] != _GIF_EXTENSION:
            return
        parts: list[bytes] = []
        while (size := file.read(1)) not in (b"", b"\0"):
            parts.append(file.read(size[0]))
            read, steps = read + 1 + size[0], steps + 1
            if read > most_bytes or steps > 2 * MAX_CHUNKS:
                return
        if block[1] == _GIF_COMMENT:
            yield b"".join(parts)


def gif_comment_place(data: bytes) -> int:
    """Return the offset for a new comment in a GIF: after application extensions such as the loop count."""
    offset = gif_header_bytes(data)
    while data[offset : offset + 2] == bytes((_GIF_EXTENSION, _GIF_APPLICATION)):
        offset += 2
        while offset < len(data) and data[offset]:
            offset += 1 + data[offset]
        offset += 1
    return offset


def gif_comment(text: bytes) -> bytes:
    """Return a whole comment of a GIF."""
    parts = (text[start : start + _GIF_MAX_BLOCK] for start in range(0, len(text), _GIF_MAX_BLOCK))
    blocks = b"".join(bytes((len(part),)) + part for part in parts)
    return bytes((_GIF_EXTENSION, _GIF_COMMENT)) + blocks + b"\0"
