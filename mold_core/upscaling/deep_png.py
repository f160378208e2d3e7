"""Read the full samples of colour PNGs with 16 bits per sample, which Pillow reduces to 8.

Source: PNG specification 3rd edition, §9 (filters) and §11.2.1 (header).
"""

from __future__ import annotations

import zlib
from io import BytesIO

import torch
from torch import Tensor

from mold_core.errors import ValidationError
from mold_core.media.containers import png_chunks

__all__ = ["is_deep_png", "read_deep_png"]

_HEADER = slice(16, 29)
_BAND = 512  # rows
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}


def is_deep_png(data: bytes) -> bool:
    """Return whether a file, by its header, is a PNG with 16 bits per sample that is not interlaced."""
    return data[24:25] == b"\x10" and data[25] in _CHANNELS and data[28] == 0


def read_deep_png(data: bytes, name: str = "image") -> Tensor:
    """Return the samples of a PNG with 16 bits as uint16 [H, W, C]. Raises ValidationError for a damaged file.

    The caller must check the size first, because memory for it is allocated.
    """
    header = data[_HEADER]
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    channels = _CHANNELS[header[9]]
    row_bytes = width * channels * 2
    raw = _inflated(data, height * (1 + row_bytes))
    if len(raw) < height * (1 + row_bytes):
        raise ValidationError(f"{name} is a PNG file that ends too early or is damaged", field=name)
    rows = torch.frombuffer(raw, dtype=torch.uint8).view(height, 1 + row_bytes)
    if int(rows[:, 0].max()) > 4:
        raise ValidationError(f"{name} is a PNG file that ends too early or is damaged", field=name)
    samples = _unfiltered(rows[:, 0], rows[:, 1:].reshape(height, width, channels * 2))
    pairs = samples.view(height, width, channels, 2).to(torch.int32)
    return (pairs[..., 0] * 256 + pairs[..., 1]).to(torch.uint16)


def _inflated(data: bytes, size: int) -> bytearray:
    """Return at most `size` bytes of decompressed samples, fewer if the file is damaged."""
    unpacked = bytearray()
    inflate = zlib.decompressobj()
    file = BytesIO(data)
    try:
        for kind, length in png_chunks(file):
            if kind == b"IDAT" and len(unpacked) < size:
                unpacked += inflate.decompress(file.read(length), size - len(unpacked))
    except zlib.error:
        pass
    return unpacked


def _unfiltered(filters: Tensor, rows: Tensor) -> Tensor:
    """Undo the filters of rows [H, W, bytes per pixel]."""
    above = torch.zeros_like(rows[0])
    bands = []
    for first in range(0, len(rows), _BAND):
        kinds, band = filters[first : first + _BAND], rows[first : first + _BAND]
        bands.append(_unfiltered_band(kinds.to(torch.int16), band, above.to(torch.int16)))
        above = bands[-1][-1]
    return torch.cat(bands)


def _unfiltered_band(kinds: Tensor, band: Tensor, above_first: Tensor) -> Tensor:
    """Undo the filters of some rows [R, W, bytes], given the row above them.

    PERF: a pixel depends on its left, upper and upper left neighbours, so pixels along a diagonal are independent. The
    loop has one step per diagonal, for all rows, instead of one step per byte. Each row is first shifted right by its
    number, which turns diagonals into columns.
    """
    height, width, depth = band.shape
    steps = width + height - 1
    slanted = torch.zeros(steps, height, depth, dtype=torch.int16)
    for y in range(height):
        slanted[y : y + width, y] = band[y]
    only = [(kinds == kind)[:, None] for kind in range(5)]
    # The pixels of the last two diagonals: index 0 is the row above the band, index y + 1 is row y.
    before = torch.zeros(height + 1, depth, dtype=torch.int16)
    last = torch.zeros(height + 1, depth, dtype=torch.int16)
    for step in range(steps):
        last[0] = above_first[step] if step < width else 0
        left, above, corner = last[1:], last[:-1], before[:-1]
        guess = only[1] * left + only[2] * above + only[3] * ((left + above) >> 1)
        guess += only[4] * _paeth(left, above, corner)
        pixels = (slanted[step] + guess) & 0xFF
        if step < height:
            pixels[step + 1 :] = 0  # these rows have not started
        slanted[step] = pixels
        before = last
        last = torch.cat((last[:1], pixels))
    return torch.stack([slanted[y : y + width, y] for y in range(height)]).to(torch.uint8)


def _paeth(left: Tensor, above: Tensor, corner: Tensor) -> Tensor:
    estimate = left + above - corner
    to_left, to_above, to_corner = (estimate - other for other in (left, above, corner))
    to_left, to_above, to_corner = to_left.abs(), to_above.abs(), to_corner.abs()
    nearer = torch.where(to_above <= to_corner, above, corner)
    return torch.where((to_left <= to_above) & (to_left <= to_corner), left, nearer)
