"""Expansion in the engine: which expander, for whom, with what seeds, on the way to an image or by itself."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import attrs
import pytest
from PIL import Image

from mold_core import (
    CancelledError,
    Engine,
    ExpandRequest,
    GenerateRequest,
    InferenceError,
    Info,
    PluginError,
    UnknownModelError,
    ValidationError,
)
from mold_core.testing import EchoExpander, FakePlugin, SketchFamily, engine_with, sketch_model


def plugin(*expanders: Any, own: str | None = None, family: SketchFamily | None = None) -> FakePlugin:
    models = [attrs.evolve(sketch_model("sketch:v1"), expander=own), sketch_model("plain:v1")]
    return FakePlugin(
        families=[family or SketchFamily()], models=models, expanders=expanders or [EchoExpander("local")]
    )


def test_a_wish_becomes_prompts_and_its_seed_is_told() -> None:
    with engine_with(plugin()) as engine:
        response = engine.expand(ExpandRequest(prompt="a cat", model="sketch", variations=2, seed=7))
        drawn = engine.expand(ExpandRequest(prompt="a cat", model="sketch"))
        again = engine.expand(ExpandRequest(prompt="a cat", model="sketch", seed=drawn.seed_used))
    assert response.original == "a cat"
    assert response.expanded == ("a cat for sketch, 7", "a cat for sketch, 8")
    assert response.seed_used == 7
    assert drawn == again


@pytest.mark.parametrize(
    ("fields", "family"),
    [
        ({"model": "sketch"}, "sketch"),
        ({"model_family": "sdxl"}, "sdxl"),
        ({"model": "sketch", "model_family": "sdxl"}, "sketch"),
        ({}, "sketch"),  # the first family that is installed
    ],
    ids=["model", "family", "both", "neither"],
)
def test_prompts_are_written_for_a_family(fields: dict[str, str], family: str) -> None:
    with engine_with(plugin()) as engine:
        (prompt,) = engine.expand(ExpandRequest(prompt="a cat", seed=1, **fields)).expanded
    assert prompt == f"a cat for {family}, 1"


def test_without_model_and_family_prompts_are_for_the_default_model() -> None:
    with engine_with(plugin(), default_model="sketch:v1") as engine:
        assert engine.expand(ExpandRequest(prompt="a cat", seed=1)).expanded == ("a cat for sketch, 1",)


def test_a_model_with_an_expander_of_its_own_gets_that_and_others_the_backend() -> None:
    own, usual = EchoExpander("tiny"), EchoExpander("local")
    with engine_with(plugin(own, usual, own="tiny")) as engine:
        engine.expand(ExpandRequest(prompt="a", model="sketch"))
        engine.expand(ExpandRequest(prompt="b", model="plain"))
    assert [one.prompt for one in own.asked] == ["a"]
    assert [one.prompt for one in usual.asked] == ["b"]
    with engine_with(plugin(own, usual, own="tiny"), expand_own=False) as engine:
        engine.expand(ExpandRequest(prompt="c", model="sketch"))
    assert usual.asked[-1].prompt == "c"


def test_an_expander_may_take_backends_beside_its_name() -> None:
    class Servers(EchoExpander):
        def takes(self, backend: str, context: object) -> bool:
            return backend.startswith("my:")

    servers = Servers("servers")
    with engine_with(plugin(EchoExpander("local"), servers), expand_backend="my:place") as engine:
        engine.expand(ExpandRequest(prompt="a", model="plain"))
    assert servers.asked[0].backend == "my:place"


def test_a_backend_that_nobody_brings_is_told_when_the_request_comes() -> None:
    with engine_with(plugin(), expand_backend="telepathy") as engine, pytest.raises(PluginError) as caught:
        engine.submit(ExpandRequest(prompt="a"))
    assert "'telepathy'" in str(caught.value)
    assert "set MOLD_EXPAND_BACKEND to local, or a URL" in str(caught.value)
    nothing = FakePlugin(families=[SketchFamily()], models=[sketch_model("sketch:v1")])
    with engine_with(nothing) as engine, pytest.raises(PluginError, match="pip install mold-expand"):
        engine.submit(GenerateRequest(prompt="a", model="sketch", expand=True))


def test_requests_that_make_no_sense_are_refused() -> None:
    with engine_with(plugin()) as engine:
        with pytest.raises(UnknownModelError):
            engine.submit(ExpandRequest(prompt="a", model="nothing"))
        for fields in ({"prompt": " "}, {"prompt": "a", "variations": 0}, {"prompt": "a", "variations": 11}):
            with pytest.raises(ValidationError):
                engine.submit(ExpandRequest(**fields))


def test_what_an_expander_knows_before_it_begins_is_told_when_the_request_comes() -> None:
    class Lacking(EchoExpander):
        def check(self, expansion: object, context: object) -> None:
            raise ValidationError("there is no language model", hint="mold pull one")

    with engine_with(plugin(Lacking("local"))) as engine:
        for request in (ExpandRequest(prompt="a"), GenerateRequest(prompt="a", model="sketch", expand=True)):
            with pytest.raises(ValidationError, match="mold pull one"):
                engine.submit(request)


# --- on the way to an image -------------------------------------------------------------------------------------


def written(engine: Engine, **fields: Any) -> list[tuple[str, str | None]]:
    """Return prompt and original prompt of each image, as its file says."""
    response = engine.generate(GenerateRequest(**{"prompt": "a cat", "model": "sketch", "seed": 7, **fields}))
    texts = [Image.open(BytesIO(image.data)).text for image in response.images]  # type: ignore[attr-defined]
    return [(text["mold:prompt"], text.get("mold:original_prompt")) for text in texts]


def test_a_image_is_made_from_the_expanded_prompt_and_keeps_the_wish() -> None:
    with engine_with(plugin()) as engine:
        assert written(engine, expand=True) == [("a cat for sketch, 7", "a cat")]
        assert written(engine) == [("a cat", None)]
        expanded = engine.generate(GenerateRequest(prompt="a cat", model="sketch", seed=7, expand=True))
        same = engine.generate(GenerateRequest(prompt="a cat for sketch, 7", model="sketch", seed=7))
    pixels = [Image.open(BytesIO(made.images[0].data)).tobytes() for made in (expanded, same)]
    assert pixels[0] == pixels[1]


def test_every_image_of_a_batch_has_its_own_prompt_that_of_its_seed() -> None:
    expander = EchoExpander("local")
    with engine_with(plugin(expander)) as engine:
        batch = written(engine, expand=True, batch_size=13)
        alone = written(engine, expand=True, seed=18)
    assert batch == [(f"a cat for sketch, {seed}", "a cat") for seed in range(7, 20)]
    assert alone == batch[11:12]
    assert [one.variations for one in expander.asked] == [10, 3, 1]


def test_the_prompts_are_told_while_the_image_is_made() -> None:
    with engine_with(plugin()) as engine:
        job = engine.submit(GenerateRequest(prompt="a cat", model="sketch", seed=7, expand=True))
        job.result()
        assert Info(message="expanded to: a cat for sketch, 7") in list(job.events())


def test_a_setting_decides_for_requests_that_do_not_say() -> None:
    with engine_with(plugin(), expand=True) as engine:
        assert written(engine) == [("a cat for sketch, 7", "a cat")]
        assert written(engine, expand=False) == [("a cat", None)]


def test_an_expansion_that_fails_fails_its_own_job_alone() -> None:
    class Picky(EchoExpander):
        def expand(self, expansion: Any, context: Any, run: Any) -> list[str]:
            if expansion.prompt == "bad":
                raise OSError("no")
            return super().expand(expansion, context, run)

    with engine_with(plugin(Picky("local"))) as engine:
        engine.pause()
        jobs = [
            engine.submit(GenerateRequest(prompt=prompt, model="sketch", seed=7, expand=True))
            for prompt in ("good", "bad", "fine")
        ]
        engine.resume()
        with pytest.raises(InferenceError, match="the prompt could not be expanded: OSError: no"):
            jobs[1].result()
        for job in (jobs[0], jobs[2]):
            assert job.result().images


@pytest.mark.parametrize("prompts", [[], ["a", "b"], [" "], [None]], ids=["none", "too many", "blank", "no text"])
def test_an_expander_that_breaks_its_word_is_blamed(prompts: list[Any]) -> None:
    class Faulty(EchoExpander):
        def expand(self, expansion: Any, context: Any, run: Any) -> list[str]:
            return prompts

    with engine_with(plugin(Faulty("local"))) as engine, pytest.raises(InferenceError, match="'local' returned"):
        engine.expand(ExpandRequest(prompt="a"))


def test_room_is_made_for_what_writes_before_a_model_is_loaded() -> None:
    family = SketchFamily(size_bytes=700_000_000)
    greedy = EchoExpander("local", size_bytes=800_000_000)
    with engine_with(plugin(greedy, family=family), memory_budget_gb=1.0) as engine:
        engine.generate(GenerateRequest(prompt="a", model="sketch"))
        assert engine.loaded() == {"sketch:v1"}
        engine.expand(ExpandRequest(prompt="a"))
        assert engine.loaded() == frozenset()
        engine.generate(GenerateRequest(prompt="a", model="sketch", expand=True))
        assert engine.loaded() == {"sketch:v1"}


def test_a_job_that_is_cancelled_is_not_expanded() -> None:
    expander = EchoExpander("local")
    with engine_with(plugin(expander)) as engine:
        engine.pause()
        job = engine.submit(GenerateRequest(prompt="a", model="sketch", expand=True))
        job.cancel()
        engine.resume()
        with pytest.raises(CancelledError):
            job.result()
        engine.expand(ExpandRequest(prompt="b"))
    assert [one.prompt for one in expander.asked] == ["b"]
