"""The catalog of LTX-2 is consistent in itself."""

from __future__ import annotations

import re

import pytest

from mold_core import ModelSpec, read_catalog
from mold_ltx2.plugin import CATALOG

ENTRIES = read_catalog(CATALOG)
MODELS = [model for model in ENTRIES if model.part_of is None]


def test_there_are_two_versions_each_guided_and_distilled() -> None:
    assert {model.name: model.options["distilled"] for model in MODELS} == {
        "ltx-2-19b-dev:fp8": False,
        "ltx-2-19b-distilled:fp8": True,
        "ltx-2.3-22b-dev:fp8": False,
        "ltx-2.3-22b-distilled:fp8": True,
    }


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_model_has_all_that_the_family_needs(model: ModelSpec) -> None:
    components = [file.component for file in model.files]
    newer = model.name.startswith("ltx-2.3")
    assert sorted(components) == sorted(
        [
            *["text_encoder"] * 5,
            "tokenizer",
            "transformer",
            *["spatial_upscaler"] * (2 if newer else 1),
            "temporal_upscaler",
            *([] if model.options["distilled"] else ["distilled_lora"]),
        ]
    )
    assert all(re.fullmatch(r"[0-9a-f]{64}", file.sha256 or "") and file.size_bytes for file in model.files)


def test_ways_for_the_camera_to_move_are_adapters_of_the_first_version() -> None:
    ways = [entry for entry in ENTRIES if entry.part_of == "ltx2"]
    assert sorted(entry.tag for entry in ways) == [
        "dolly-in", "dolly-left", "dolly-out", "dolly-right", "jib-down", "jib-up", "static"
    ]  # fmt: skip
    for entry in ways:
        (file,) = entry.files
        assert (entry.base, file.component, entry.options["models"]) == ("camera-control", "lora", "ltx-2-19b")
        assert file.repo and file.filename and file.filename.endswith(f"{entry.tag}.safetensors")
