"""Declarations of wire fields describe themselves."""

from __future__ import annotations

from typing import get_args

import attrs
import pytest

from mold_core import GenerateRequest, GenerateResponse, ImageData, LoraWeight, ModelDefaults, ModelFile, ProgressEvent
from mold_core.wire.fields import bounds_of, doc_of, shorten

CLASSES = [
    GenerateRequest,
    GenerateResponse,
    ImageData,
    LoraWeight,
    ModelDefaults,
    ModelFile,
    *get_args(ProgressEvent),
]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_says_what_it_means_in_one_sentence(cls: type) -> None:
    for attribute in attrs.fields(cls):
        assert doc_of(attribute).endswith("."), attribute.name


def test_bounds_can_be_read_for_schemas_and_help() -> None:
    bounds = bounds_of(attrs.fields(GenerateRequest).seed)
    assert (bounds.minimum, bounds.maximum) == (0, 2**64 - 1)


@pytest.mark.parametrize(
    "value",
    ["x" * 1000, b"x" * 1000, [[[[[]]]]] * 99, {"x" * 99: "y" * 99}, object(), pytest.param(10**5000, id="number")],
)
def test_any_value_fits_an_error_line(value: object) -> None:
    assert len(shorten(value)) <= 60


def test_short_values_are_shown_as_they_are() -> None:
    assert [shorten(value) for value in ("a", 1.5, [1, 2], None)] == ["'a'", "1.5", "[1, 2]", "None"]
