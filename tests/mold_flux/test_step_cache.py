"""The step cache: off unless requested, nearly the same image in half of the steps, however the model is in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mold_core import Engine, GenerateRequest, Info, Settings, ValidationError
from mold_core.media.metadata import read_metadata
from mold_flux.family import FluxFamily

CACHED = {"cache": "first-block", "cache_threshold": 0.1}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(Settings(device="cpu", executor="inline")) as engine:
        yield engine


def request(**options: Any) -> GenerateRequest:
    return GenerateRequest(
        prompt="a red house under a yellow moon", model="flux-nano", steps=20, seed=3, options=options
    )


def drawn(engine: Engine, one: GenerateRequest) -> tuple[bytes, int | None]:
    """Return the file of an image, and how many steps were left out; None where nothing was said of it."""
    events: list[Any] = []
    data = engine.generate(one, events.append).images[0].data
    said = [re.match(r"(\d+) of 20 steps were left out", event.message) for event in events if isinstance(event, Info)]
    counts = [int(match[1]) for match in said if match]
    return data, counts[0] if counts else None


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"), dtype=np.float32)


@pytest.fixture(scope="module")
def exact(engine: Engine) -> np.ndarray[Any, Any]:
    data, left_out = drawn(engine, request())
    assert left_out is None
    return pixels(data)


def test_half_of_the_steps_are_left_out_and_the_image_stays(engine: Engine, exact: np.ndarray[Any, Any]) -> None:
    data, left_out = drawn(engine, request(**CACHED))
    assert left_out is not None and 7 <= left_out <= 13
    assert 10 * np.log10(255**2 / np.square(pixels(data) - exact).mean()) > 40
    metadata = read_metadata(data)
    assert metadata is not None and metadata.options == CACHED


def test_no_step_is_left_out_that_changes_more_than_the_threshold(engine: Engine, exact: np.ndarray[Any, Any]) -> None:
    data, left_out = drawn(engine, request(cache="first-block", cache_threshold=0.0))
    assert left_out == 0
    assert np.array_equal(pixels(data), exact)
    assert drawn(engine, request(cache="off"))[1] is None


def test_streamed_blocks_that_are_left_out_do_no_harm(engine: Engine) -> None:
    with Engine(Settings(device="cpu", executor="inline", memory_strategy="offload")) as streamed:
        for _ in range(2):
            assert drawn(streamed, request(**CACHED)) == drawn(engine, request(**CACHED))


def test_requests_with_a_cache_are_computed_alone(engine: Engine) -> None:
    family, spec = FluxFamily(), engine.resolve("flux-nano")
    assert family.batch_key(spec, request(**CACHED)) is None
    assert family.batch_key(spec, request(cache="off")) is not None


@pytest.mark.parametrize(
    ("options", "field"),
    [({"cache": "second"}, "options.cache"), ({"cache_threshold": 2.0}, "options.cache_threshold")],
)
def test_another_cache_or_threshold_is_refused(engine: Engine, options: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        engine.generate(request(**options))
    assert caught.value.field == field
