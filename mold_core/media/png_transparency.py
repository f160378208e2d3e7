"""The transparent color of PNGs whose samples do not have 8 bits. Pillow compares it with samples of 8 bits.

Source: PNG specification 3rd edition, §11.3.1.1 (tRNS) and §13.12 (scaling of samples).
"""

from __future__ import annotations

from functools import reduce
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

__all__ = ["color_key_alpha", "deep_color_key", "scale_color_key"]

_GREY, _RGB = 0, 2


def scale_color_key(file: ImageFile, data: bytes) -> None:
    """Scale the transparent grey of a PNG of 2 or 4 bits like Pillow scales the samples."""
    bits, color_type = data[24], data[25]
    key = file.info.get("transparency")
    if color_type == _GREY and bits in (2, 4) and isinstance(key, int):
        file.info["transparency"] = key * 255 // (2**bits - 1)


def deep_color_key(file: ImageFile, data: bytes) -> tuple[int, ...] | None:
    """Return the transparent grey or RGB color of a PNG with 16 bits per sample, if it has one."""
    key = file.info.get("transparency")
    if data[24] != 16 or data[25] not in (_GREY, _RGB) or key is None:
        return None
    return (key,) if isinstance(key, int) else tuple(key)


def color_key_alpha(file: ImageFile, data: bytes) -> Image | None:
    """Return a mask, mode L, that is 0 where a PNG of 16 bits has its transparent color; None if it has none."""
    key = deep_color_key(file, data)
    if key is None:
        return None
    if len(key) == 1:
        table = [255] * 65536
        table[key[0]] = 0
        return file.convert("I").point(table, "L")
    from PIL import ImageChops

    high, low = file.convert("RGB").split(), _low_bytes(data).split()
    matches = [
        band.point([255 * (level == byte) for level in range(256)])
        for bands, shift in ((high, 8), (low, 0))
        for band, byte in zip(bands, (part >> shift & 0xFF for part in key), strict=True)
    ]
    return ImageChops.invert(reduce(ImageChops.darker, matches))


def _low_bytes(data: bytes) -> Image:
    """Return the lower bytes of the samples, by reading them as little-endian."""
    from PIL.PngImagePlugin import PngImageFile

    file = PngImageFile(BytesIO(data))
    file.tile = [tile._replace(args="RGB;16L") for tile in file.tile]
    file.load()
    return file
