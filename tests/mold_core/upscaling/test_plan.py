"""Where tiles lie and how they fade into each other."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as some

from mold_core.upscaling.plan import Span, ramps, spans


def test_what_fits_into_one_tile_is_one_tile() -> None:
    assert spans(100, 128, 32) == [Span(0, 100)]


@given(some.integers(1, 3000), some.integers(64, 600), some.integers(0, 40), some.sampled_from([1, 2, 4]))
def test_spans_cover_everything_and_share_what_they_must(length: int, tile: int, overlap: int, multiple: int) -> None:
    length = -(-length // multiple) * multiple
    parts = spans(length, tile, overlap, multiple)
    assert parts[0].start == 0 and parts[-1].stop == length
    assert len({part.length for part in parts}) == 1
    assert all(part.start % multiple == 0 and part.length % multiple == 0 for part in parts)
    assert all(right.start + overlap <= left.stop for left, right in pairwise(parts))
    assert max(part.length for part in parts) <= max(tile, 2 * (overlap + multiple))


@given(some.integers(64, 700), some.integers(64, 200), some.integers(2, 40), some.integers(1, 8), some.integers(1, 4))
def test_weights_add_up_to_one_everywhere(length: int, tile: int, overlap: int, feather: int, scale: int) -> None:
    parts = spans(length, tile, overlap)
    sums = [0.0] * (length * scale)
    for part, weights in zip(parts, ramps(parts, min(feather, overlap), scale), strict=True):
        for place, weight in enumerate(weights):
            sums[part.start * scale + place] += weight
    assert all(abs(total - 1) < 1e-9 for total in sums)


def test_the_edge_of_a_tile_counts_for_nothing() -> None:
    left, right = ramps([Span(0, 64), Span(32, 96)], feather=8, scale=1)
    assert left[32:44] == [1.0] * 12 and left[-12:] == [0.0] * 12
    assert right[:12] == [0.0] * 12 and right[20:32] == [1.0] * 12
