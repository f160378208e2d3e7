"""From what a person types to a model."""

from __future__ import annotations

import pytest

from mold_core import ModelSpec, UnknownModelError
from mold_core.catalog import nearest_names, resolve

NAMES = [
    "flux-dev:bf16",
    "flux-dev:q4",
    "flux-dev:q8",
    "flux-schnell:q6",
    "flux-schnell:q8",
    "krea:bf16",
    "krea:fp8",
    "krea:fp16",
    "mix:fp8",
    "mix:q4",
    "nano:v2",
    "nano:v1",
    "sd-q2:q2",
]
CATALOG = {name: ModelSpec(name=name, family="sketch") for name in NAMES}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("flux-dev:q4", "flux-dev:q4"),
        ("flux-schnell", "flux-schnell:q8"),
        ("krea", "krea:fp16"),
        ("mix", "mix:fp8"),
        ("nano", "nano:v1"),
        ("flux-dev-q4", "flux-dev:q4"),
        ("sd-q2", "sd-q2:q2"),
        ("  FLUX-Dev:Q4 ", "flux-dev:q4"),
    ],
)
def test_a_name_means_the_model_people_expect(typed: str, meant: str) -> None:
    assert resolve(typed, CATALOG).name == meant


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("flux-de", "flux-dev:q4, flux-dev:q8, flux-dev:bf16"),
        ("flux-dev:q5", "flux-dev:q4, flux-dev:q8, flux-dev:bf16"),
        ("flux-dev-q3", "flux-dev:"),
        ("flux-shnell:q8", "flux-schnell:q8, flux-schnell:q6"),
        ("crea", "krea:"),
    ],
)
def test_a_near_miss_is_answered_with_the_nearest_names(typed: str, nearest: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        resolve(typed, CATALOG)
    assert str(caught.value).startswith(f"unknown model {typed!r}; nearest: {nearest}")
    assert str(caught.value).endswith(" (mold list shows all)")


@pytest.mark.parametrize("typed", ["", "zzz", "::::", "a\0b", "🦊", "-q4"])
def test_a_name_like_no_other_is_answered_without_a_guess(typed: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        resolve(typed, CATALOG)
    assert str(caught.value) == f"unknown model {typed!r} (mold list shows all)"


def test_a_very_long_name_gives_a_short_line() -> None:
    with pytest.raises(UnknownModelError) as caught:
        resolve("flux-dev" * 10_000, CATALOG)
    assert len(str(caught.value)) < 200


def test_the_error_carries_field_and_value() -> None:
    with pytest.raises(UnknownModelError) as caught:
        resolve("nope", CATALOG)
    assert (caught.value.field, caught.value.value) == ("model", "nope")


def test_an_empty_catalog_knows_nothing() -> None:
    with pytest.raises(UnknownModelError):
        resolve("flux-dev", {})


def test_no_more_names_are_suggested_than_wanted() -> None:
    assert nearest_names("flux-dev", NAMES, limit=1) == ["flux-dev:q4"]
