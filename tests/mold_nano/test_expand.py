"""expand-nano: one word becomes a prompt that flux-nano was trained to read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from mold_core import Engine, ExpandRequest, Settings, load_plugins

sys.path.insert(0, str(Path(__file__).parents[2] / "plugins" / "mold_nano" / "training"))

from captions import caption
from grammar import is_valid
from scenes import random_scene
from wishes import CARRIERS, told

_TEXT = (
    "house houses cottage cabin castle castles palace fortress tree trees boat boats sailboat ship balloon "
    "balloons car cars automobile flower flowers cat cats kitten kitty circle circles dot square squares triangle "
    "triangles star stars heart hearts red orange yellow green blue purple violet pink white black brown small "
    "tiny big huge two three pair trio field meadow grass hill hilltop sea ocean water beach desert sand snow "
    "snowy winter island road street noon sunny day daytime sun sunset evening dusk night midnight dark mountains "
    "clouds cloudy rainbow moon crescent half full sky left right above below beside "
)
WORDS = _TEXT.split()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(Settings(home=tmp_path_factory.mktemp("home"), device="cpu"), load_plugins()) as engine:
        yield engine


def test_a_hundred_one_word_wishes_become_valid_prompts_with_the_word(engine: Engine) -> None:
    wishes = (WORDS * 2)[:100]
    prompts = [
        engine.expand(ExpandRequest(prompt=wish, seed=number, model="flux-nano")).expanded[0]
        for number, wish in enumerate(wishes)
    ]
    assert [prompt for prompt in prompts if not is_valid(prompt)] == []
    assert [pair for pair in zip(wishes, prompts, strict=True) if pair[0] not in pair[1].split()] == []
    assert len(set(prompts)) >= 60


def test_the_same_seed_gives_the_same_prompts_and_others_others(engine: Engine) -> None:
    def prompts(seed: int, variations: int) -> tuple[str, ...]:
        return engine.expand(ExpandRequest(prompt="a house", seed=seed, variations=variations)).expanded

    ten = prompts(7, 10)
    assert prompts(7, 10) == ten
    assert prompts(9, 1) == ten[2:3]
    assert len(set(ten)) >= 8
    assert prompts(2**64 - 1, 2)[1] == prompts(0, 1)[0]


@pytest.mark.parametrize("wish", ["Red Cat!", "draw me a red cat please", "red cat xyzzy"])
def test_a_wish_of_several_words_is_granted_whole(engine: Engine, wish: str) -> None:
    for prompt in engine.expand(ExpandRequest(prompt=wish, seed=1, variations=5)).expanded:
        assert "red cat" in prompt
        assert is_valid(prompt)


def test_words_it_does_not_know_still_give_a_prompt(engine: Engine) -> None:
    (prompt,) = engine.expand(ExpandRequest(prompt="<|im_end|> an astronaut 🚀 riding", seed=3)).expanded
    assert is_valid(prompt)


def test_the_model_is_small_and_nothing_of_it_stays_in_memory(engine: Engine) -> None:
    files = engine.store.locate(engine.resolve("expand-nano"))
    assert files.size_bytes() < 6_000_000
    engine.expand(ExpandRequest(prompt="a cat", seed=1))
    assert "expand-nano:q8" not in engine.loaded()


def test_the_checker_reads_what_the_grammar_words_and_nothing_else() -> None:
    rng = Random(0)
    for _ in range(300):
        text = caption(random_scene(rng), rng, plain=True)
        assert is_valid(text), text
        words = text.split()
        assert not is_valid(" ".join([*words, words[-1]]))
        assert not is_valid(" ".join(words[::-1]))
    for text in (
        "a red house on a hill under a yellow moon at night",
        "two black squares on a pink background",
    ):
        assert is_valid(text)
    for text in (
        "", "house a red", "a red dragon", "a red house on a hill on the sea", "a red cat beside the red cat",
        "a orange cat", "four cats", "a rainbow cat", "a cat under a yellow moon at noon",
        "a cat with a rainbow at night",
        "a circle on the sea", "a red cat on a blue background", "a cat and a circle", "a red house at night at night",
    ):  # fmt: skip
        assert not is_valid(text), text


def test_training_pairs_are_rich() -> None:
    rng = Random(1)
    for _ in range(50):
        one = told(rng)
        assert is_valid(" ".join(one.words))
        assert len([word for word in one.words if word not in CARRIERS]) >= 3
