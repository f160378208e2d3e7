"""Write a PNG row by row, so that an image of any size takes only the memory of a strip.

Source: PNG specification 3rd edition, §9 (filters, chosen as in §12.7) and §11 (chunks).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from io import BytesIO
from typing import BinaryIO

import torch
from torch import Tensor

from mold_core.media.containers import PNG_SIGNATURE, png_chunk, png_chunks
from mold_core.upscaling.pixels import bytes_of

__all__ = ["PngStream"]

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_LEVEL = 4
_CHUNK_BYTES = 1 << 20

# Rows are filtered in batches, because filtering takes several times their size.
_FILTERED_BYTES = 4 << 20

_PILLOW_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


class PngStream:
    """Writes a PNG to a binary file. `channels` is 1 to 4: grey, grey and alpha, RGB, RGBA.

    `chunks` are complete chunks to write before the pixels. `write` takes rows from the top, `close` ends the file.
    """

    def __init__(
        self, file: BinaryIO, width: int, height: int, channels: int, *, bits: int = 8, chunks: Sequence[bytes] = ()
    ) -> None:
        self._file = file
        self._pixel_bytes = channels * bits // 8
        self._above = torch.zeros(width * self._pixel_bytes, dtype=torch.uint8)
        self._deflate = zlib.compressobj(_LEVEL)
        self._packed = bytearray()
        header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((bits, _COLOUR_TYPES[channels], 0, 0, 0))
        file.write(PNG_SIGNATURE + png_chunk(b"IHDR", header) + b"".join(chunks))

    def write(self, rows: Tensor) -> None:
        """Add rows of pixels, uint8 or uint16 [rows, width, channels]."""
        if rows.dtype == torch.uint16:
            wide = rows.to(torch.int32)
            rows = torch.stack((wide >> 8, wide & 0xFF), dim=-1).to(torch.uint8)
        flat = rows.reshape(rows.shape[0], -1)
        at_once = max(1, _FILTERED_BYTES // flat.shape[1])
        for first in range(0, len(flat), at_once):
            some = flat[first : first + at_once]
            filter_rows = _filtered_by_pillow if self._pixel_bytes in _PILLOW_MODES else _filtered
            self._packed += self._deflate.compress(filter_rows(some, self._above, self._pixel_bytes))
            self._above = some[-1]
            if len(self._packed) >= _CHUNK_BYTES:
                self._write_packed()

    def close(self) -> None:
        """Write the remaining rows and the end of the file."""
        self._packed += self._deflate.flush()
        self._write_packed()
        self._file.write(png_chunk(b"IEND", b""))

    def _write_packed(self) -> None:
        if self._packed:
            self._file.write(png_chunk(b"IDAT", bytes(self._packed)))
            self._packed.clear()


def _filtered_by_pillow(rows: Tensor, above_first: Tensor, pixel_bytes: int) -> bytes:
    """Return rows uint8 [R, N], each preceded by the number of its filter: the one that compresses best.

    PERF: filters compare bytes at a distance of one pixel, so any mode with as many bytes works. Pillow chooses and
    applies them twenty times as fast as torch, by writing a PNG that is decompressed again. The row above is added at
    the top as a reference for the first row, and is removed afterwards.
    """
    from PIL import Image

    together = torch.cat((above_first[None], rows))
    size = together.shape[1] // pixel_bytes, together.shape[0]
    image = Image.frombytes(_PILLOW_MODES[pixel_bytes], size, bytes_of(together))
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=0)
    packed = bytearray()
    for kind, length in png_chunks(buffer):
        if kind == b"IDAT":
            packed += buffer.read(length)
    return zlib.decompress(packed)[1 + together.shape[1] :]


def _filtered(rows: Tensor, above_first: Tensor, pixel_bytes: int) -> bytes:
    """Return the same for pixels of six and eight bytes, which Pillow does not support."""
    above = torch.cat((above_first[None], rows[:-1]))
    left, corner = (_shifted(part, pixel_bytes) for part in (rows, above))
    kinds = torch.tensor([1, 2, 4], dtype=torch.uint8)
    candidates = (rows - left, rows - above, rows - _paeth(left, above, corner))
    cost = torch.stack([one.view(torch.int8).to(torch.float32).abs_().sum(dim=1) for one in candidates])
    best = cost.argmin(dim=0)
    chosen = torch.stack(candidates)[best, torch.arange(len(rows))]
    return bytes_of(torch.cat((kinds[best][:, None], chosen), dim=1))


def _shifted(rows: Tensor, by: int) -> Tensor:
    moved = torch.zeros_like(rows)
    moved[:, by:] = rows[:, :-by]
    return moved


def _paeth(left: Tensor, above: Tensor, corner: Tensor) -> Tensor:
    # |p - left| is |above - corner|, |p - above| is |left - corner|, for p = left + above - corner.
    a, b, c = (part.to(torch.int16) for part in (left, above, corner))
    to_left, to_above = b - c, a - c
    to_corner = (to_left + to_above).abs()
    to_left, to_above = to_left.abs(), to_above.abs()
    nearer = torch.where(to_above <= to_corner, above, corner)
    return torch.where((to_left <= to_above) & (to_left <= to_corner), left, nearer)
