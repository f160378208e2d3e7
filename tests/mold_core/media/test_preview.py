"""The GIF that stands for a video plays as long as the video, with few and small frames."""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO

import pytest
from PIL import Image

from mold_core.media.preview import PreviewFrames, preview_gif


@pytest.mark.parametrize(
    ("frames", "fps", "every", "shown"),
    [(1, 24, 3, 1), (60, 24, 3, 20), (9, 4, 1, 9), (361, 24, 4, 91), (5000, 24, 42, 120)],
)
def test_eight_frames_a_second_and_never_more_than_120(frames: int, fps: int, every: int, shown: int) -> None:
    chosen = PreviewFrames.of(frames, fps)
    assert chosen.every == every
    assert sum(index in chosen for index in range(frames)) == shown


def test_parts_show_the_frames_that_the_whole_does() -> None:
    whole = PreviewFrames(3)
    lengths = (17, 8, 1, 1, 25)
    seen, before = [], 0
    for length in lengths:
        here = whole.after(before)
        seen += [before + index for index in range(length) if index in here]
        before += length
    assert seen == list(range(0, sum(lengths), 3))


def test_frames_are_made_small_and_keep_their_shape() -> None:
    assert PreviewFrames.small(Image.new("RGB", (1216, 704))).size == (256, 148)
    assert PreviewFrames.small(Image.new("RGB", (64, 32))).size == (64, 32)
    assert PreviewFrames.small(Image.new("RGB", (4096, 2))).size == (256, 1)


def test_the_gif_holds_the_frames_in_their_colours_and_plays_as_long() -> None:
    colours = ((200, 30, 30), (30, 160, 40), (40, 60, 210))
    made = preview_gif((Image.new("RGB", (40, 20), colour) for colour in colours), Fraction(24, 12))
    with Image.open(BytesIO(made)) as gif:
        assert (gif.size, gif.n_frames, gif.info["duration"], gif.info["loop"]) == ((40, 20), 3, 500, 0)  # type: ignore[attr-defined]
        for index, colour in enumerate(colours):
            gif.seek(index)
            pixel = gif.convert("RGB").getpixel((20, 10))
            assert max(abs(a - b) for a, b in zip(pixel, colour, strict=True)) <= 6  # type: ignore[arg-type]


def test_of_no_frames_there_is_no_preview() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        preview_gif([], Fraction(8))
