"""The model of a request that names none."""

from __future__ import annotations

from pathlib import Path

import pytest

from mold_core import ModelFile, ModelNotFoundError, ModelSpec, Settings, UnknownModelError
from mold_core.catalog import DefaultModel, ModelStore, default_model, remember_model


def spec(name: str, *, family: str = "sketch", root: Path | None = None) -> ModelSpec:
    return ModelSpec(name=name, family=family, files=(ModelFile(component="weights", path=name),), root=root)


def choose(
    home: Path, *, here: tuple[str, ...] = (), embedded: bool = True, config: str = "", **env: str
) -> DefaultModel:
    """Choose among the models a:q8, b:q8, c:q8 and the embedded nano:bf16, of which `here` are downloaded."""
    for name in (*here, "wheel/nano:bf16"):
        (home / "models" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "models" / name).touch()
    (home / "config.toml").write_text(config)
    settings = Settings.load({}, {"MOLD_HOME": str(home), **env})
    models = [spec(f"{base}:q8") for base in "abc"]
    if embedded:
        models.append(spec("nano:bf16", root=home / "models" / "wheel"))
    catalog = {model.name: model for model in models}
    return default_model(settings, catalog, ModelStore(settings.models_path), lambda model: model.base != "c")


def told(chosen: DefaultModel) -> tuple[str, str]:
    return chosen.spec.name, chosen.reason


def test_the_variable_comes_first(home: Path) -> None:
    remember_model(home, "a:q8")
    chosen = choose(home, here=("a:q8",), config='default_model = "a"', MOLD_DEFAULT_MODEL="b")
    assert told(chosen) == ("b:q8", "setting")


def test_then_the_file(home: Path) -> None:
    remember_model(home, "b:q8")
    assert told(choose(home, here=("b:q8",), config='default_model = "a:q8"')) == ("a:q8", "setting")


def test_then_the_last_that_was_used(home: Path) -> None:
    remember_model(home, "b:q8")
    assert told(choose(home, here=("a:q8", "b:q8"))) == ("b:q8", "last used")


def test_then_the_only_one_that_is_downloaded(home: Path) -> None:
    assert told(choose(home, here=("a:q8",))) == ("a:q8", "only downloaded")


def test_then_the_embedded_one(home: Path) -> None:
    assert told(choose(home, here=("a:q8", "b:q8"))) == ("nano:bf16", "embedded")
    assert told(choose(home / "other")) == ("nano:bf16", "embedded")


def test_the_embedded_one_used_last_does_not_stand_before_the_one_downloaded_since(home: Path) -> None:
    remember_model(home, "nano:bf16")
    assert told(choose(home, here=("a:q8",))) == ("a:q8", "only downloaded")


def test_a_last_model_that_is_no_longer_here_is_passed_over(home: Path) -> None:
    remember_model(home, "b:q8")
    assert told(choose(home, here=("a:q8",))) == ("a:q8", "only downloaded")


def test_a_model_that_makes_no_images_is_never_the_default(home: Path) -> None:
    remember_model(home, "c:q8")
    assert told(choose(home, here=("c:q8",))) == ("nano:bf16", "embedded")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"nope\nnope", b"\0"])
def test_a_damaged_note_of_the_last_model_is_passed_over(home: Path, content: bytes) -> None:
    home.mkdir()
    (home / "last-model").write_bytes(content)
    assert told(choose(home)) == ("nano:bf16", "embedded")


def test_with_nothing_to_fall_back_to_the_error_says_what_to_do(home: Path) -> None:
    with pytest.raises(
        ModelNotFoundError, match="no model was named and none is installed; name one with -m; mold list"
    ):
        choose(home, embedded=False)


def test_a_setting_that_names_no_model_says_that_it_is_the_setting(home: Path) -> None:
    with pytest.raises(
        UnknownModelError, match=r"the default model in MOLD_DEFAULT_MODEL or config\.toml is unknown: .*'zz'"
    ):
        choose(home, MOLD_DEFAULT_MODEL="zz")


def test_a_model_that_cannot_be_remembered_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    remember_model(tmp_path / "file", "a:q8")
    assert (tmp_path / "file").read_bytes() == b""
