"""Encodes images as sixels, a terminal graphics format with bands of six pixel rows.

The format: DEC STD 070, chapter 9, and the VT330/VT340 Programmer Reference Manual, volume 2, chapter 14.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["sixels"]

# Nearly all terminals with sixels have 256 colours; one is left for the background.
_COLORS = 255

_BAND_ROWS = 6
_FIRST_SIXEL = 0x3F  # "?": six empty pixels
_RUN = re.compile(rb"(.)\1{3,}", re.DOTALL)


def sixels(image: Image.Image) -> str:
    """Return the escape sequence that draws an RGB image at the cursor, in its original size."""
    from PIL import Image

    small = image.quantize(_COLORS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)
    palette = small.getpalette("RGB") or []
    colors = "".join(
        f"#{index};2;" + ";".join(str(round(channel * 100 / 255)) for channel in palette[3 * index : 3 * index + 3])
        for index in range(len(palette) // 3)
    )
    bands = "-".join(_band(rows) for rows in _bands(small))
    # 0;1: square pixels, and pixels without a colour are unchanged; "1;1: the aspect ratio again, in raster attributes.
    return f'\x1bP0;1q"1;1;{small.width};{small.height}{colors}{bands}\x1b\\'


def _bands(image: Image.Image) -> Iterator[list[bytes]]:
    """Yield the rows of each band: one byte per pixel, the index of its colour."""
    pixels, width = image.tobytes(), image.width
    rows = [pixels[start : start + width] for start in range(0, len(pixels), width)]
    for start in range(0, len(rows), _BAND_ROWS):
        yield rows[start : start + _BAND_ROWS]


def _band(rows: list[bytes]) -> str:
    """Return a band: for each colour, one character per column with the pixels of that colour; ``$`` returns to 0."""
    layers = []
    for color in sorted(set().union(*rows)):
        # PERF: the bits of a row as one integer, so that six rows are combined by five operations.
        bits = 0
        for row_index, row in enumerate(rows):
            bits |= int.from_bytes(row.translate(_table(row_index, color)))
        columns = bytes(bit + _FIRST_SIXEL for bit in bits.to_bytes(len(rows[0])))
        layers.append(f"#{color}" + _RUN.sub(_counted, columns.rstrip(b"?")).decode("ascii"))
    return "$".join(layers)


def _counted(run: re.Match[bytes]) -> bytes:
    return b"!%d%s" % (len(run[0]), run[1])


@cache
def _table(row_index: int, color: int) -> bytes:
    """Return the table that maps one colour index to the bit of a row, and all others to zero."""
    return bytes(1 << row_index if index == color else 0 for index in range(256))
