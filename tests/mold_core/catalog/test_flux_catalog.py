"""The catalog of FLUX.1 is consistent in itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mold_core import ModelFile, ModelSpec, read_catalog

ENTRIES = read_catalog(Path(__file__).parents[3] / "plugins" / "mold_flux" / "mold_flux" / "catalog.toml")
MODELS = [model for model in ENTRIES if model.part_of is None]
ENCODERS = [model for model in ENTRIES if model.part_of == "flux"]
FILES = [file for model in ENTRIES for file in model.files]


def test_there_are_24_models_with_names_of_their_own() -> None:
    assert len({model.name for model in MODELS}) == len(MODELS) == 24


def test_the_text_encoder_comes_in_six_sizes_and_each_serves_every_model() -> None:
    assert [model.tag for model in ENCODERS] == ["fp16", "q8", "q6", "q5", "q4", "q3"]
    sizes = [model.size_bytes for model in ENCODERS]
    assert sizes == sorted(sizes, reverse=True)
    paths = tuple(file.path for model in ENCODERS for file in model.files)
    for model in MODELS:
        (encoder,) = (file for file in model.files if file.component == "t5_encoder")
        assert (encoder.path, *encoder.instead) == paths
    assert not any(file.instead for model in ENCODERS for file in model.files)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_model_has_all_that_the_family_needs(model: ModelSpec) -> None:
    assert model.family == "flux"
    assert model.name == model.name.lower()
    assert model.description
    assert model.licence
    assert model.options["variant"] == ("schnell" if "schnell" in model.name else "dev")
    assert sorted(file.component for file in model.files) == [
        "clip_encoder",
        "clip_tokenizer",
        "t5_encoder",
        "t5_tokenizer",
        "transformer",
        "vae",
    ]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_defaults_are_those_of_its_variant(model: ModelSpec) -> None:
    defaults = model.defaults
    schnell = model.options["variant"] == "schnell"
    assert (defaults.width, defaults.height, defaults.steps) == (1024, 1024, 4 if schnell else 25)
    assert defaults.guidance is not None
    assert (defaults.guidance == 0) == schnell


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.path)
def test_a_file_can_be_fetched_and_checked(file: ModelFile) -> None:
    assert file.repo is not None
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", file.repo)
    assert file.filename
    assert file.size_bytes is not None
    assert file.size_bytes > 1_000_000
    assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
    assert not Path(file.path).is_absolute()
    assert ".." not in Path(file.path).parts


def test_weights_that_are_shared_are_described_once() -> None:
    descriptions = {(file.path, file.size_bytes, file.sha256, file.repo, file.filename) for file in FILES}
    assert len(descriptions) == len({file.path for file in FILES})


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_transformer_is_as_large_as_its_tag_says(model: ModelSpec) -> None:
    (transformer,) = (file for file in model.files if file.component == "transformer")
    bits = (transformer.size_bytes or 0) * 8 / 11.9e9  # FLUX.1 has 11.9 billion parameters
    low, high = {
        "q3": (3, 4),
        "q4": (4, 5.5),
        "q5": (5, 6.5),
        "q6": (6, 7),
        "q8": (8, 9),
        "fp8": (7.9, 8.5),
        "bf16": (15.9, 16.5),
    }[model.tag]
    assert low <= bits <= high
