"""The positions of the tiles of an image, and their weights where they overlap."""

from __future__ import annotations

import math

import attrs

__all__ = ["Span", "ramps", "spans"]


@attrs.frozen
class Span:
    """The pixels from `start` to before `stop` along one side of an image."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of pixels."""
        return self.stop - self.start


def spans(length: int, tile: int, overlap: int, multiple: int = 1) -> list[Span]:
    """Return equally long spans that cover `length` pixels; neighbours share at least `overlap`.

    Their number is the smallest for spans of at most `tile` pixels, and then their length is the smallest. `length` is
    a multiple of `multiple`, and so are all starts and lengths. The minimum of `tile` is twice the overlap.
    """
    overlap = _up(overlap, multiple)
    tile = max(tile // multiple * multiple, 2 * overlap, multiple)
    if length <= tile:
        return [Span(0, length)]
    count = math.ceil((length - overlap) / (tile - overlap))
    size = _up(math.ceil((length + (count - 1) * overlap) / count), multiple)
    last = length - size
    starts = [index * last // (count - 1) // multiple * multiple for index in range(count)]
    return [Span(start, start + size) for start in starts]


def ramps(parts: list[Span], feather: int, scale: int) -> list[list[float]]:
    """Return the weights, from 0 to 1, of the pixels of each span after upscaling by `scale`.

    Where two spans overlap, they are cross-faded over `feather` pixels in the middle. Outside of these, only one span
    counts, because pixels near the edge of a tile are computed without their surroundings. The weights of all spans sum
    to 1 at every pixel.
    """
    weights = [[1.0] * (part.length * scale) for part in parts]
    for index in range(len(parts) - 1):
        left, right = parts[index], parts[index + 1]
        shared = (left.stop - right.start) * scale
        fade = max(1, min(feather * scale, shared))
        first = (shared - fade) / 2
        for pixel in range(shared):
            gained = min(1.0, max(0.0, (pixel + 0.5 - first) / fade))
            weights[index + 1][pixel] = gained
            weights[index][len(weights[index]) - shared + pixel] = 1.0 - gained
    return weights


def _up(value: int, multiple: int) -> int:
    return math.ceil(value / multiple) * multiple
