"""Where the tiles of an image lie, and how much each counts where two of them meet."""

from __future__ import annotations

import math

import attrs

__all__ = ["Span", "ramps", "spans"]


@attrs.frozen
class Span:
    """The pixels from `start` up to `stop` along one side of an image."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """How many pixels they are."""
        return self.stop - self.start


def spans(length: int, tile: int, overlap: int, multiple: int = 1) -> list[Span]:
    """Return equally long spans that cover `length` pixels; neighbours share at least `overlap`.

    They are as few as spans of at most `tile` pixels can be, and then as short as they can be. `length` is a multiple
    of `multiple`, and so are all starts and lengths. A tile under twice the overlap is taken as twice the overlap.
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
    """Return for each span how much each of its pixels counts once it is `scale` times as long, from 0 to 1.

    Where two spans share pixels, one fades into the other across `feather` pixels in the middle, and beyond that only
    one counts: pixels near the edge of a tile are made without their surroundings. At every place the weights of all
    spans add up to 1.
    """
    weights = [[1.0] * (part.length * scale) for part in parts]
    for index in range(len(parts) - 1):
        left, right = parts[index], parts[index + 1]
        shared = (left.stop - right.start) * scale
        fade = max(1, min(feather * scale, shared))
        first = (shared - fade) / 2
        for place in range(shared):
            gained = min(1.0, max(0.0, (place + 0.5 - first) / fade))
            weights[index + 1][place] = gained
            weights[index][len(weights[index]) - shared + place] = 1.0 - gained
    return weights


def _up(value: int, multiple: int) -> int:
    return math.ceil(value / multiple) * multiple
