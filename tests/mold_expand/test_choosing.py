"""What is wrong with a prompt, in numbers."""

from __future__ import annotations

import pytest

from mold_expand.choosing import faults

KNOWN = {"red", "house", "cat", "night", "at"}


@pytest.mark.parametrize(
    ("wish", "prompt", "count"),
    [
        ("red house", "a red house on a hill at night", 0),
        ("Red, house!", "a red house", 0),
        ("red house", "a blue house", 1),
        ("red dragon", "a red house", 0),
        ("a cat at night", "a red house", 3),
        ("red", "a red house and a red house", 1),
        ("red", "the red house on the left and one blue house on the right", 0),
    ],
)
def test_faults_are_words_that_lack_and_words_that_come_again(wish: str, prompt: str, count: int) -> None:
    assert faults(wish, prompt, KNOWN) == count
