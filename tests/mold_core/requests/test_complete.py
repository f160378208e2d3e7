"""A request is completed into one that can run, or refused with the reason."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import attrs
import pytest
from PIL import Image

from mold_core import GenerateRequest, LoraWeight, ModelDefaults, Parameter, SizeRules, ValidationError
from mold_core.catalog import LoraFolder
from mold_core.hookspecs import Capability
from mold_core.media import encode_image
from mold_core.requests.complete import adjust_size, complete
from mold_core.testing import SketchFamily, sketch_model

SPEC = sketch_model("sketch:v1")
FLUX = SizeRules(multiple=16, max_pixels=1_800_000, min_side=16)


def completed(family: SketchFamily | None = None, **fields: Any) -> tuple[GenerateRequest, tuple[str, ...]]:
    return complete(GenerateRequest(prompt="a", **fields), SPEC, family or SketchFamily())


def png(width: int, height: int) -> bytes:
    return encode_image(Image.new("RGB", (width, height)), "png")


def able(*capabilities: Capability) -> SketchFamily:
    return SketchFamily(capabilities=frozenset({"text-to-image", *capabilities}))


def test_what_is_missing_is_filled_in_from_the_model() -> None:
    request, warnings = completed(seed=7)
    assert request == GenerateRequest(
        prompt="a",
        model="sketch:v1",
        width=32,
        height=32,
        steps=2,
        guidance=1.0,
        seed=7,
        output_format="png",
        embed_metadata=True,
    )
    assert warnings == ()


def test_what_was_asked_for_stays() -> None:
    asked: dict[str, Any] = {"width": 64, "height": 40, "steps": 9, "guidance": 0.0, "seed": 0, "embed_metadata": False}
    request, warnings = completed(**asked)
    assert {name: getattr(request, name) for name in asked} == asked
    assert warnings == ()


def test_the_model_gets_its_full_name() -> None:
    assert completed(model="sketch")[0].model == "sketch:v1"


def test_a_random_seed_is_drawn_each_time() -> None:
    seeds = {completed()[0].seed for _ in range(20)}
    assert len(seeds) == 20
    assert all(seed is not None and 0 <= seed < 2**32 for seed in seeds)


def test_a_request_is_not_changed_by_being_completed() -> None:
    request = GenerateRequest(prompt="a")
    complete(request, SPEC, SketchFamily())
    assert request == GenerateRequest(prompt="a")


def test_a_completed_request_stays_as_it_is() -> None:
    request, _ = completed(width=50, height=1000)
    assert complete(request, SPEC, SketchFamily()) == (request, ())


def test_a_model_without_defaults_still_makes_a_image() -> None:
    spec = attrs.evolve(SPEC, defaults=ModelDefaults())
    request, _ = complete(GenerateRequest(prompt="a", width=64), spec, SketchFamily())
    assert (request.width, request.height, request.steps, request.guidance) == (64, 64, 1, 0.0)


# --- the shape of a source image -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "asked", "got"),
    [
        ((640, 480), {}, (32, 24)),
        ((480, 640), {}, (24, 32)),
        ((8, 8), {}, (32, 32)),
        ((3000, 10), {}, (32, 8)),
        ((640, 480), {"width": 64}, (64, 48)),
        ((640, 480), {"height": 24}, (32, 24)),
        ((640, 480), {"width": 64, "height": 64}, (64, 64)),
    ],
)
def test_a_image_keeps_the_shape_of_its_source(
    source: tuple[int, int], asked: dict[str, int], got: tuple[int, int]
) -> None:
    request, warnings = completed(able("image-to-image"), source_image=png(*source), **asked)
    assert (request.width, request.height) == got
    assert warnings == ()
    assert complete(request, SPEC, able("image-to-image")) == (request, ())


@pytest.mark.parametrize("name", ["source_image", "mask_image"])
@pytest.mark.parametrize("data", [b"GIF89a", png(32, 32)[:-20], b"x"], ids=["gif", "truncated", "junk"])
def test_a_image_that_is_none_is_refused_at_once(name: str, data: bytes) -> None:
    images = {"source_image": png(8, 8), "mask_image": png(8, 8), name: data}
    with pytest.raises(ValidationError, match=f"^{name} ") as caught:
        completed(able("image-to-image", "inpaint"), **images)
    assert caught.value.field == name


# --- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ((1024, 1024), (1024, 1024)),
        ((1000, 1000), (1008, 1008)),
        ((1016, 1015), (1024, 1008)),
        ((1, 1), (16, 16)),
        ((7, 2000), (16, 2000)),
        ((2048, 2048), (1328, 1328)),
        ((16_384, 16_384), (1328, 1328)),
        ((4096, 2048), (1904, 944)),
        ((3840, 2160), (1776, 992)),
        ((16_384, 16), (16_384, 16)),
        ((16_384, 1), (16_384, 16)),
        ((16_384, 1024), (5360, 320)),
    ],
)
def test_a_size_is_adjusted_to_the_nearest_that_the_family_can_make(
    asked: tuple[int, int], got: tuple[int, int]
) -> None:
    assert adjust_size(*asked, FLUX) == got


def test_every_size_becomes_one_that_obeys_the_rules_and_stays_there() -> None:
    chance = random.Random(0)
    for _ in range(3000):
        multiple = chance.choice([1, 2, 8, 16, 32, 64])
        least = multiple * chance.randint(1, 4)
        rules = SizeRules(
            multiple=multiple,
            min_side=least,
            max_pixels=chance.choice([least**2, least**2 + 50_000, 1_800_000]),
            max_side=chance.choice([None, least, least + 20 * multiple]),
        )
        asked = (chance.randint(1, 16_384), chance.randint(1, 16_384))
        wide, high = got = adjust_size(*asked, rules)
        assert wide % multiple == high % multiple == 0, (asked, rules, got)
        assert min(got) >= least, (asked, rules, got)
        assert wide * high <= rules.max_pixels, (asked, rules, got)
        assert rules.max_side is None or max(got) <= rules.max_side, (asked, rules, got)
        assert adjust_size(*got, rules) == got, (asked, rules, got)


def test_the_aspect_ratio_is_kept_as_well_as_rounding_allows() -> None:
    chance = random.Random(1)
    for _ in range(3000):
        asked = (chance.randint(400, 4096), chance.randint(400, 4096))
        wide, high = adjust_size(*asked, FLUX)
        scale = min(1.0, (FLUX.max_pixels / (asked[0] * asked[1])) ** 0.5)
        assert abs(wide - asked[0] * scale) <= 16, (asked, wide, high)
        assert abs(high - asked[1] * scale) <= 16, (asked, wide, high)


def test_squares_stay_squares() -> None:
    assert all(len(set(adjust_size(side, side, FLUX))) == 1 for side in range(1, 16_385, 7))


def test_a_least_side_that_is_no_multiple_is_rounded_up() -> None:
    assert adjust_size(1, 1, SizeRules(multiple=16, min_side=20)) == (32, 32)


def test_an_adjusted_size_is_said_in_words() -> None:
    request, warnings = completed(width=33, height=1000)
    assert (request.width, request.height) == (32, 1000)
    assert warnings == ("dimensions adjusted from 33x1000 to 32x1000",)


def test_a_model_may_have_sizes_of_its_own() -> None:
    class Choosy(SketchFamily):
        def sizes_of(self, spec: object) -> SizeRules:
            return SizeRules(multiple=100, min_side=100)

    request, warnings = completed(Choosy())
    assert (request.width, request.height) == (100, 100)
    assert warnings == ("dimensions adjusted from 32x32 to 100x100",)


# --- what a family cannot do -------------------------------------------------------------------------------------

LORA = LoraWeight(path="a.safetensors")


@pytest.mark.parametrize(
    ("fields", "capability"),
    [
        ({"source_image": b"x"}, "image-to-image"),
        ({"mask_image": b"x"}, "inpaint"),
        ({"lora": LORA}, "lora"),
        ({"loras": (LORA,)}, "lora"),
        ({"scheduler": "ddim"}, "scheduler"),
        ({"frames": 9}, "text-to-video"),
        ({"fps": 24}, "text-to-video"),
    ],
)
def test_a_field_that_the_family_cannot_honour_is_refused(fields: dict[str, Any], capability: Capability) -> None:
    (name,) = fields
    with pytest.raises(ValidationError) as caught:
        completed(**fields)
    assert caught.value.field == name
    assert str(caught.value) == (
        f"{name} needs a model that can do {capability}; sketch:v1 can do text-to-image; "
        "leave it out or name another model"
    )


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        (able("image-to-image"), {"source_image": png(40, 30)}),
        (able("image-to-image", "inpaint"), {"source_image": png(40, 30), "mask_image": png(4, 3)}),
        (able("text-to-video"), {"frames": 9, "fps": 24, "output_format": "mp4"}),
    ],
)
def test_a_family_that_can_is_given_the_field(family: SketchFamily, fields: dict[str, Any]) -> None:
    request, _ = completed(family, **fields)
    assert {name: getattr(request, name) for name in fields} == fields


def test_adapters_are_named_by_their_files_all_in_one_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").touch()
    asked = GenerateRequest(prompt="a", lora=LORA, loras=(LoraWeight(path="b", scale=0.5),))
    request, _ = complete(asked, SPEC, able("lora"), loras=LoraFolder(tmp_path))
    files = tuple(str(tmp_path / f"{name}.safetensors") for name in ("a", "b"))
    assert request.lora is None
    assert request.loras == (LoraWeight(path=files[0]), LoraWeight(path=files[1], scale=0.5))
    assert complete(request, SPEC, able("lora"), loras=LoraFolder(tmp_path))[0] == request


def test_a_mask_needs_a_image() -> None:
    with pytest.raises(ValidationError, match="mask_image needs a source_image"):
        completed(able("image-to-image", "inpaint"), mask_image=b"x")


def test_saying_no_to_expansion_is_kept() -> None:
    assert completed(expand=False)[0].expand is False


@pytest.mark.parametrize("output_format", ["gif", "apng", "mp4"])
def test_a_video_format_is_refused_for_a_image(output_format: str) -> None:
    with pytest.raises(
        ValidationError, match=f"output_format '{output_format}' is for videos; .* use one of png, jpeg"
    ):
        completed(output_format=output_format)


def test_a_family_may_narrow_the_bounds_of_a_field() -> None:
    family = SketchFamily(parameters=(Parameter(name="steps", doc="Steps.", minimum=2, maximum=5),))
    assert completed(family, steps=5)[0].steps == 5
    with pytest.raises(ValidationError, match="steps must be from 2 to 5, not 6, with model sketch:v1"):
        completed(family, steps=6)


def test_a_negative_prompt_is_ignored_with_a_word() -> None:
    _, warnings = completed(negative_prompt="blurry")
    assert warnings == ("Sketch has no negative prompt; it is ignored",)
    assert completed(negative_prompt="")[1] == ()
    assert completed(able("negative-prompt"), negative_prompt="blurry")[1] == ()
