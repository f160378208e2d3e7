"""LoRAs in prompts."""

from __future__ import annotations

import pytest

from mold_a1111 import prompts
from mold_a1111.prompts import split_prompt
from mold_core import LoraWeight


@pytest.mark.parametrize(
    ("prompt", "rest"),
    [("a house <lora:oil:0.8>", "a house"), ("a  <lora:oil:0.8> house", "a house"), ("<lora:oil:0.8>", "")],
)
def test_a_tag_goes_with_the_spaces_before_it(prompt: str, rest: str) -> None:
    assert split_prompt(prompt) == (rest, (LoraWeight(path="oil", scale=0.8),))


def test_a_run_of_spaces_is_searched_once() -> None:
    """Where the run has been searched from its first space, no other space of it begins a search."""
    assert prompts._LORA.match("x   <lora:oil>", 1) is not None
    assert all(prompts._LORA.match("x   <lora:oil>", place) is None for place in (2, 3))
    assert split_prompt(" " * 77_000) == (" " * 77_000, ())
