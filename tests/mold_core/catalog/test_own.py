"""Models that people describe in config.toml: their own files, and what else they want."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from mold_core import Engine, ModelDefaults, ModelFile, ModelSpec, Plugins, Settings, SettingsError, load_plugins
from mold_core.catalog import user_models
from mold_core.testing import sketch_model

FILES = (ModelFile(component="weights", path="sketch-v1/w", repo="a/b"), ModelFile(component="vae", path="shared/vae"))
KNOWN = attrs.evolve(sketch_model("sketch:v1"), files=FILES, options={"variant": "dev"})
CATALOG = {"sketch:v1": KNOWN, "inside:v1": attrs.evolve(KNOWN, name="inside:v1", root=Path("/wheel"))}


def own(name: str = "my:model", **table: Any) -> ModelSpec:
    (spec,) = user_models(Settings(user_models={name: table}), CATALOG).values()
    return spec


def test_what_it_does_not_say_is_that_of_the_model_it_is_like() -> None:
    spec = own(like="sketch:v1", files={"weights": "/mine/w"}, defaults={"steps": 9}, options={"expand": True})
    assert spec.name == "my:model"
    assert spec.family == "sketch"
    assert spec.files == (ModelFile(component="weights", path="/mine/w"), FILES[1])
    assert spec.defaults == attrs.evolve(KNOWN.defaults, steps=9)
    assert spec.options == {"variant": "dev", "expand": True}
    assert not spec.embedded


def test_files_of_a_model_in_a_wheel_are_found_there() -> None:
    spec = own(like="inside:v1", files={"vae": ["/mine/a", "/mine/b"]})
    assert [file.path for file in spec.files] == ["/mine/a", "/mine/b", "/wheel/sketch-v1/w"]


def test_it_may_stand_alone() -> None:
    spec = own("Mine:Q4", family="flux", description="Mine", files={"transformer": "t.gguf"}, defaults={"width": 64})
    assert spec == ModelSpec(
        name="mine:q4",
        family="flux",
        description="Mine",
        defaults=ModelDefaults(width=64),
        files=(ModelFile(component="transformer", path="t.gguf"),),
    )


def test_a_known_model_may_be_changed() -> None:
    spec = own("sketch:v1", files={"weights": "~/w"})
    assert spec.files == (ModelFile(component="weights", path=str(Path.home() / "w")), FILES[1])


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        ("mine", {"like": "sketch:v1"}, r"models\.'mine' must have a tag in its name; such as mine:bf16"),
        ("a:b", {"family": "flux"}, r"has no files"),
        ("a:b", {"files": {"x": "y"}}, r"needs a family"),
        ("a:b", {"like": "sketch:v2"}, r"has like = 'sketch:v2', which is not a model; nearest: sketch:v1"),
        ("a:b", {"like": "sketch:v1", "steps": 4}, r"has unknown keys steps; known: like, family"),
        ("a:b", {"like": "sketch:v1", "defaults": {"steps": 0}}, r"steps must be at least 1"),
        ("a:b", {"like": "sketch:v1", "defaults": {"stepps": 1}}, r"unknown keys stepps"),
        ("a:b", {"like": "sketch:v1", "files": {"vae": 3}}, r"files\.vae must be a path"),
        ("a:b", {"like": "sketch:v1", "files": "x"}, r"files must be a table"),
        ("a:b", {"like": "sketch:v1", "options": []}, r"options must be a table"),
        ("a:b", {"like": "sketch:v1", "description": 3}, r"description must be text"),
    ],
)
def test_what_is_wrong_is_named_with_the_model(name: str, table: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        own(name, **table)
    assert "config.toml" in str(caught.value)


def test_the_engine_knows_them(home: Path) -> None:
    home.mkdir(parents=True)
    (home / "config.toml").write_text(
        'queue_size = 3\n[models."my:model"]\nfamily = "sketch"\nfiles = { weights = "w" }\n'
    )
    settings = Settings.load()
    with Engine(settings, load_plugins(())) as engine:
        assert isinstance(engine.plugins, Plugins)
        assert engine.resolve("my:model").files[0].path == "w"
    assert settings.queue_size == 3


@pytest.mark.parametrize("text", ['models = "x"', "models = 3"])
def test_models_must_be_tables(home: Path, text: str) -> None:
    home.mkdir(parents=True)
    (home / "config.toml").write_text(text)
    with pytest.raises(SettingsError, match="models must be a table of tables"):
        Settings.load()
