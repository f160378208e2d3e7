"""JSON becomes wire objects exactly, or every problem in it is named."""

from __future__ import annotations

import base64
import json
from typing import Any, get_args

import attrs
import pytest

from mold_core import GenerateRequest, GenerateResponse, ImageData, LoraWeight, MalformedError, ValidationError
from mold_core.wire import ExpandRequest, PullRequest, UpscaleRequest
from mold_core.wire.chain import ChainRequest
from mold_core.wire.convert import check, from_json, from_text, to_json
from mold_core.wire.schema import classes_within

IMAGE = b"\x89PNG\r\n\x1a\n image"

FULL = {
    "prompt": "a cat on a skateboard",
    "model": "flux-schnell:q8",
    "negative_prompt": "",
    "width": 1024,
    "height": 768,
    "steps": 4,
    "guidance": 0.5,
    "seed": 42,
    "batch_size": 2,
    "output_format": "webp",
    "embed_metadata": False,
    "scheduler": "ddim",
    "source_image": base64.b64encode(IMAGE).decode(),
    "strength": 0.5,
    "mask_image": base64.b64encode(IMAGE).decode(),
    "control_image": base64.b64encode(IMAGE).decode(),
    "control_model": "canny",
    "edit_images": [base64.b64encode(IMAGE).decode()],
    "lora": {"path": "/a.safetensors", "scale": 0.5},
    "loras": [{"path": "/a.safetensors", "scale": 1.0}, {"path": "/b.safetensors", "scale": 2.0}],
    "frames": 97,
    "fps": 24,
    "enable_audio": True,
    "gif_preview": True,
    "keyframes": [{"frame": 8, "image": base64.b64encode(IMAGE).decode()}],
    "audio_file": base64.b64encode(b"RIFF").decode(),
    "source_video": base64.b64encode(b"ftyp").decode(),
    "retake_range": {"start_seconds": 0.5, "end_seconds": 2.0},
    "pipeline": "retake",
    "spatial_upscale": "x1-5",
    "temporal_upscale": "x2",
    "expand": True,
    "original_prompt": "a cat",
    "preview": True,
    "upscale_model": "real-esrgan-x4plus:fp16",
    "placement": {
        "text_encoders": {"kind": "cpu"},
        "advanced": {"transformer": {"kind": "gpu", "ordinal": 1}, "vae": {"kind": "auto"}, "t5": {"kind": "cpu"}},
    },
    "options": {"waves": 5, "seamless": True},
}


def problems(data: object, **options: Any) -> tuple[str, ...]:
    with pytest.raises(ValidationError) as caught:
        from_json(GenerateRequest, data, **options)
    return caught.value.problems


def object_problems(value: object) -> tuple[str, ...]:
    with pytest.raises(ValidationError) as caught:
        check(value)
    return caught.value.problems


def test_only_the_prompt_is_required() -> None:
    request = from_json(GenerateRequest, {"prompt": "a glowing robot"})
    assert request == GenerateRequest(prompt="a glowing robot")
    assert (request.batch_size, request.output_format, request.strength) == (1, None, 0.75)
    assert {request.model, request.width, request.seed, request.embed_metadata} == {None}


def test_a_full_request_survives_the_way_there_and_back() -> None:
    request = from_json(GenerateRequest, FULL)
    assert to_json(request) == FULL
    assert from_text(GenerateRequest, json.dumps(to_json(request))) == request
    assert request.source_image == IMAGE


def test_the_fields_of_the_test_are_all_the_fields_there_are() -> None:
    assert list(FULL) == list(GenerateRequest.__annotations__)


def test_a_response_survives_the_way_there_and_back() -> None:
    image = ImageData(data=IMAGE, format="png", width=8, height=16, index=1)
    response = GenerateResponse(
        images=(image,), generation_time_ms=5, model="flux-dev:q4", seed_used=2**64 - 1, warnings=("smaller",)
    )
    assert from_text(GenerateResponse, json.dumps(to_json(response))) == response


def test_fields_that_hold_nothing_are_left_out() -> None:
    assert to_json(GenerateRequest(prompt="a")) == {
        "prompt": "a",
        "batch_size": 1,
        "strength": 0.75,
        "gif_preview": False,
        "preview": False,
    }


def wire_classes() -> list[type]:
    roots = [GenerateRequest, ChainRequest, UpscaleRequest, ExpandRequest, PullRequest]
    return list(dict.fromkeys(cls for root in roots for cls in classes_within(root)))


@pytest.mark.parametrize("cls", wire_classes())
def test_null_is_the_same_as_absent_in_every_field_that_may_be_absent(cls: type) -> None:
    samples = {bytes: "YQ==", int: 9, str: "a", float: 1.0}
    fields = attrs.fields(attrs.resolve_types(cls))
    required = {
        field.name: samples.get(field.type) or get_args(field.type)[0]
        for field in fields
        if field.default is attrs.NOTHING
    }
    optional = {field.name: None for field in fields if field.default is not attrs.NOTHING}
    assert from_json(cls, {**required, **optional}) == from_json(cls, required)


def test_null_for_what_is_required_says_that_it_is_required() -> None:
    assert problems({"prompt": None}) == ("prompt is required",)
    assert problems({"prompt": "a", "lora": {"path": None}}) == ("lora.path is required",)


EVERY_BYTE = bytes(range(256)) * 3  # has every character of both alphabets
STANDARD = base64.b64encode(EVERY_BYTE).decode()


@pytest.mark.parametrize(
    "text",
    [
        STANDARD,
        base64.encodebytes(EVERY_BYTE).decode(),
        base64.encodebytes(EVERY_BYTE).decode().replace("\n", "\r\n"),
        base64.urlsafe_b64encode(EVERY_BYTE).decode(),
        base64.urlsafe_b64encode(EVERY_BYTE + b"a").decode().rstrip("="),
        base64.b64encode(EVERY_BYTE + b"a").decode().rstrip("="),
        base64.b64encode(EVERY_BYTE + b"a").decode(),
        f"data:image/png;base64,{STANDARD}",
        f"DATA:image/png;charset=utf-8;BASE64,{STANDARD}",
        f"data:;base64,{STANDARD.replace('+', '%2B').replace('/', '%2F')}",
    ],
)
def test_base64_is_read_however_it_is_written(text: str) -> None:
    read = from_json(GenerateRequest, {"prompt": "a", "source_image": text}).source_image
    assert read is not None
    assert read.removesuffix(b"a") == EVERY_BYTE


def test_every_problem_is_reported_with_its_path() -> None:
    data = {
        "width": 0,
        "steps": "4",
        "guidance": -1,
        "output_format": "jpg",
        "loras": [{"path": "a"}, {"scale": 3}, 5],
        "lora": {"path": "", "scale": "x"},
        "expand": 1,
    }
    assert problems(data) == (
        "prompt is required",
        "width must be from 1 to 16384, not 0",
        "steps must be a whole number, not '4'",
        "guidance must be from 0 to 100, not -1.0",
        "output_format must be one of png, jpeg, webp, gif, apng, mp4, not 'jpg'",
        "lora.path must not be empty",
        "lora.scale must be a number, not 'x'",
        "loras[1].path is required",
        "loras[1].scale must be from 0 to 2, not 3.0",
        "loras[2] must be an object, not 5",
        "expand must be true or false, not 1",
    )


def test_the_error_carries_the_path_of_the_first_problem() -> None:
    with pytest.raises(ValidationError) as caught:
        from_json(GenerateRequest, {"prompt": "a", "lora": {"path": "a", "scale": 9}})
    assert caught.value.field == "lora.scale"
    assert str(caught.value) == "lora.scale must be from 0 to 2, not 9.0"


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("width", True, "width must be a whole number, not True"),
        ("width", "1024", "width must be a whole number, not '1024'"),
        ("width", 83.5, "width must be a whole number, not 83.5"),
        ("width", [8], "width must be a whole number, not [8]"),
        ("guidance", "3.5", "guidance must be a number, not '3.5'"),
        ("guidance", False, "guidance must be a number, not False"),
        ("prompt", 5, "prompt must be text, not 5"),
        ("prompt", None, "prompt is required"),
        ("prompt", ["a"], "prompt must be text, not ['a']"),
        ("prompt", " \n\t ", "prompt must not be empty"),
        ("embed_metadata", "true", "embed_metadata must be true or false, not 'true'"),
        ("loras", "abc", "loras must be a list, not 'abc'"),
        ("loras", {"0": {}}, "loras must be a list, not {'0': {}}"),
        ("loras", [], "loras must not be empty"),
        ("lora", "a.safetensors", "lora must be an object, not 'a.safetensors'"),
        ("lora", [["path", "a"]], "lora must be an object, not [['path', 'a']]"),
        ("scheduler", "euler", "scheduler must be one of ddim, euler-ancestral, uni-pc, not 'euler'"),
        ("scheduler", 5, "scheduler must be one of ddim, euler-ancestral, uni-pc, not 5"),
        ("seed", -1, "seed must be from 0 to 18446744073709551615, not -1"),
        ("seed", 2**64, "seed must be from 0 to 18446744073709551615, not 18446744073709551616"),
        ("steps", 0, "steps must be from 1 to 100, not 0"),
        ("steps", 101, "steps must be from 1 to 100, not 101"),
        ("batch_size", 0, "batch_size must be from 1 to 1000, not 0"),
        ("frames", 258, "frames must be from 1 to 257, not 258"),
        ("fps", 121, "fps must be from 1 to 120, not 121"),
        ("strength", 1.1, "strength must be from 0 to 1, not 1.1"),
        ("source_image", "", "source_image must not be empty"),
        *(
            ("source_image", value, "source_image must be base64 text (RFC 4648) or a data: URL")
            for value in ("Y", "YQ=", "YQ===", "=YQ=", "Y?Q=", "é", "data:image/png,YQ==", "data:;base64,?", 5)
        ),
    ],
)
def test_nothing_is_coerced_and_bounds_are_kept(field: str, value: object, problem: str) -> None:
    assert problems({"prompt": "a", field: value}) == (problem,)


@pytest.mark.parametrize("seed", [0, 1, 2**53 + 1, 2**64 - 1])
def test_seeds_up_to_the_largest_are_kept_exactly(seed: int) -> None:
    assert from_text(GenerateRequest, json.dumps({"prompt": "a", "seed": seed})).seed == seed


def test_a_whole_number_may_be_written_with_a_decimal_point() -> None:
    width = from_text(GenerateRequest, '{"prompt": "a", "width": 83.0}').width
    assert (width, type(width)) == (83, int)


def test_a_number_may_be_written_as_a_whole_number() -> None:
    guidance = from_text(GenerateRequest, '{"prompt": "a", "guidance": 3}').guidance
    assert (guidance, type(guidance)) == (3.0, float)


def test_a_prompt_is_measured_in_bytes() -> None:
    assert from_json(GenerateRequest, {"prompt": "é" * 38_500}).prompt
    assert problems({"prompt": "é" * 38_501}) == ("prompt must be at most 77,000 bytes of UTF-8, not 77,002",)


def test_half_a_character_is_no_text() -> None:
    with pytest.raises(
        ValidationError, match="prompt must be valid Unicode text; there is a lone surrogate at position 1"
    ):
        from_text(GenerateRequest, '{"prompt": "a\\ud800"}')


def test_nul_emoji_and_line_breaks_are_text_like_any_other() -> None:
    prompt = "a\0b 🦊\r\n\u202e"
    assert from_text(GenerateRequest, json.dumps({"prompt": prompt})).prompt == prompt


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_malformed(text: str) -> None:
    with pytest.raises(MalformedError, match=f"this is not JSON: {text} is not allowed"):
        from_text(GenerateRequest, f'{{"prompt": "a", "guidance": {text}}}')


@pytest.mark.parametrize(
    ("field", "problem"),
    [("guidance", "must be a finite number, not inf"), ("width", "must be a whole number, not inf")],
)
def test_a_number_beyond_all_bounds_is_reported(field: str, problem: str) -> None:
    with pytest.raises(ValidationError, match=f"^{field} {problem}$"):
        from_text(GenerateRequest, f'{{"prompt": "a", "{field}": 1e400}}')


@pytest.mark.parametrize("field", ["seed", "width", "guidance"])
def test_a_number_of_hundreds_of_digits_gives_a_short_line(field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        from_text(GenerateRequest, f'{{"prompt": "a", "{field}": 1{"0" * 400}}}')
    assert str(caught.value).startswith(f"{field} must be")
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1,",
        "{'prompt': 'a'}",
        '{"prompt": "a"} x',
        b"\xff\xfe\0",
        b"\x80",
        pytest.param("[" * 100_000, id="many brackets"),
        pytest.param('{"a":' * 100_000, id="many braces"),
        pytest.param("1" * 5000, id="many digits"),
    ],
)
def test_what_is_not_json_is_malformed(text: str | bytes) -> None:
    with pytest.raises(MalformedError):
        from_text(GenerateRequest, text)


@pytest.mark.parametrize("depth", [10, 500, 900, 980, 990])
def test_deep_nesting_in_a_field_is_reported_shortly(depth: int) -> None:
    with pytest.raises(ValidationError) as caught:
        from_text(GenerateRequest, '{"prompt":' + "[" * depth + "]" * depth + "}")
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("data", [[], None, 5, "prompt", True])
def test_a_request_must_be_an_object(data: object) -> None:
    with pytest.raises(ValidationError, match=r"^the value must be an object, not ") as caught:
        from_json(GenerateRequest, data)
    assert caught.value.field is None


def test_unknown_keys_are_ignored_on_the_wire() -> None:
    data = {"prompt": "a", "colour": 1, "lora": {"path": "a", "weight": 2}}
    assert from_json(GenerateRequest, data) == GenerateRequest(prompt="a", lora=LoraWeight(path="a"))


def test_unknown_keys_are_refused_where_people_write_by_hand() -> None:
    found = problems({"prompt": "a", "colour": 1, "lora": {"path": "a", "weight": 2}}, strict_keys=True)
    assert found[0] == "lora has unknown keys weight (known: path, scale)"
    assert found[1].startswith("the object has unknown keys colour (known: prompt, model, ")


def test_long_values_are_cut_in_messages() -> None:
    (problem,) = problems({"prompt": "a", "width": "x" * 1_000_000})
    assert len(problem) < 150


def test_objects_made_in_python_are_checked_alike() -> None:
    request = GenerateRequest(
        prompt="",
        width=0,
        steps=True,
        seed=2**64,
        output_format="bmp",  # type: ignore[arg-type]
        embed_metadata=1,  # type: ignore[arg-type]
        source_image="YQ==",  # type: ignore[arg-type]
        strength=float("nan"),
        lora=LoraWeight(path="a", scale=3),
        loras=(LoraWeight(path="a"), LoraWeight(path=" ")),
    )
    assert object_problems(request) == (
        "prompt must not be empty",
        "width must be from 1 to 16384, not 0",
        "steps must be a whole number, not True",
        "seed must be from 0 to 18446744073709551615, not 18446744073709551616",
        "output_format must be one of png, jpeg, webp, gif, apng, mp4, not 'bmp'",
        "embed_metadata must be true or false, not 1",
        "source_image must be bytes, not 'YQ=='",
        "strength must be a finite number, not nan",
        "lora.scale must be from 0 to 2, not 3",
        "loras[1].path must not be empty",
    )


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("prompt", None, "prompt is required"),
        ("width", 83.0, "width must be a whole number, not 83.0"),
        ("width", "64", "width must be a whole number, not '64'"),
        pytest.param("seed", 10**400, "seed must be from 0 to 18446744073709551615, not 1000", id="400 digits"),
        pytest.param("seed", 10**5000, "seed must be from 0 to 18446744073709551615, not a number", id="5000 digits"),
        ("loras", [LoraWeight(path="a")], "loras must be a tuple, not "),
        ("loras", ("a",), "loras[0] must be a LoraWeight, not 'a'"),
        ("loras", (None,), "loras[0] is required"),
        ("lora", {"path": "a"}, "lora must be a LoraWeight, not {'path': 'a'}"),
        ("batch_size", None, "batch_size is required"),
        ("scheduler", "x", "scheduler must be one of ddim, euler-ancestral, uni-pc, not 'x'"),
        ("prompt", "\ud800", "prompt must be valid Unicode text"),
    ],
)
def test_an_object_made_in_python_with_a_wrong_value_is_refused(field: str, value: Any, problem: str) -> None:
    (found,) = object_problems(GenerateRequest(**{"prompt": "a", field: value}))
    assert found.startswith(problem)


def test_a_good_object_made_in_python_passes() -> None:
    check(from_json(GenerateRequest, FULL))
    check(GenerateRequest(prompt="a", guidance=3))
    check(GenerateResponse(images=(), generation_time_ms=1, model="m", seed_used=0))
