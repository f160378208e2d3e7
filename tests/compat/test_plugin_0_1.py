"""A plugin that was written for mold 0.1 still works, under the old names and without base classes."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from mold_core import Engine, ExpandRequest, GenerateRequest, load_plugins
from mold_core.testing import engine_with


@pytest.fixture
def plugin() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plugin_0_1", Path(__file__).with_name("plugin_0_1.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        spec.loader.exec_module(module)
    assert {str(warning.message) for warning in warned} >= {
        "mold_core.Film is called DecodedClip since mold 0.2",
        "mold_core.ModelPart is called ModelComponent since mold 0.2",
    }
    return module


@pytest.fixture
def engine(plugin: ModuleType) -> Iterator[Engine]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with engine_with(plugin, expand_backend="shouting") as engine:
            yield engine


def test_it_loads_without_a_failure_and_warns_of_each_old_member(plugin: ModuleType) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        plugins = load_plugins(found=(), extra=[("old", plugin)])
    (info,) = plugins.infos
    assert info.failure is None
    assert {str(warning.message) for warning in warned} == {
        "OldFamily.parts is called components since mold 0.2",
        "OldFamily.places is called placement_components since mold 0.2",
        "OldFamily.fitted is called resolve_inputs since mold 0.2",
    }
    assert plugins.families["old"].placement_components == ("transformer", "vae")


def test_it_generates_by_its_own_rules(engine: Engine) -> None:
    response = engine.run(GenerateRequest(prompt="x", model="old:v1", steps=2))
    assert Image.open(BytesIO(response.images[0].data)).size == (64, 64)
    assert any("always takes 3 steps" in warning for warning in response.warnings)


def test_its_model_is_planned_by_its_components(engine: Engine) -> None:
    report = engine.memory_report("old:v1")
    assert report is not None
    assert [(part.name, part.size_bytes) for part in report.parts] == [("transformer", 1000)]


def test_its_expander_writes_prompts(engine: Engine) -> None:
    assert list(engine.run(ExpandRequest(prompt="a boat", variations=2)).expanded) == ["A BOAT!", "A BOAT!!"]
