"""Catalog files become models, or the error says which model and which field is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from mold_core import ModelDefaults, ModelFile, ModelSpec, PluginError, read_catalog
from mold_core.catalog.model import Vocabulary

CATALOG = """
[[shared.encoders]]
component = "vae"
path = "shared/ae.safetensors"
size_bytes = 5

[[shared.encoders]]
component = "clip"
path = "shared/clip.safetensors"
gated = true

[[model]]
name = "mini:q8"
family = "sketch"
description = "A small one"
licence = "MIT"
shared = ["encoders"]
defaults = { width = 64, height = 32, steps = 4, guidance = 1 }
options = { variant = "a", deep = { list = [1, 2] } }
[[model.files]]
component = "transformer"
path = "mini-q8/model.gguf"
repo = "someone/mini"
filename = "model.gguf"
size_bytes = 1_000
sha256 = "00"

[[model]]
name = "mini:q4"
family = "sketch"
"""


def read(tmp_path: Path, text: str, *, embedded: bool = False) -> list[ModelSpec]:
    path = tmp_path / "catalog.toml"
    path.write_text(text, "utf-8")
    return read_catalog(path, embedded=embedded)


def test_a_catalog_describes_models(tmp_path: Path) -> None:
    mini, bare = read(tmp_path, CATALOG)
    assert mini == ModelSpec(
        name="mini:q8",
        family="sketch",
        description="A small one",
        licence="MIT",
        defaults=ModelDefaults(width=64, height=32, steps=4, guidance=1.0),
        files=(
            ModelFile(
                component="transformer",
                path="mini-q8/model.gguf",
                repo="someone/mini",
                filename="model.gguf",
                size_bytes=1000,
                sha256="00",
            ),
            ModelFile(component="vae", path="shared/ae.safetensors", size_bytes=5),
            ModelFile(component="clip", path="shared/clip.safetensors", gated=True),
        ),
        options={"variant": "a", "deep": {"list": [1, 2]}},
    )
    assert bare == ModelSpec(name="mini:q4", family="sketch")


def test_a_model_knows_its_base_tag_and_size(tmp_path: Path) -> None:
    mini, _ = read(tmp_path, CATALOG)
    assert (mini.base, mini.tag, mini.size_bytes, mini.embedded) == ("mini", "q8", 1005, False)


def test_an_embedded_model_lies_beside_its_catalog(tmp_path: Path) -> None:
    mini, _ = read(tmp_path, CATALOG, embedded=True)
    assert (mini.root, mini.embedded) == (tmp_path, True)


def test_an_empty_catalog_has_no_models(tmp_path: Path) -> None:
    assert read(tmp_path, "") == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[model]]\nname = 'a:b'", "model 'a:b': family is required"),
        ("[[model]]\nfamily = 'f'", "model 1: name is required"),
        ("[[model]]\nname = 5\nfamily = 'f'", "model 5: name must be text, not 5"),
        ("[[model]]\nname = 'a'\nfamily = 'f'", "model 'a': name 'a' needs a tag, such as a:bf16"),
        ("[[model]]\nname = 'a:b'\nfamily = 'f'\ncolour = 1", "model 'a:b': the object has unknown keys colour"),
        (
            "[[model]]\nname = 'a:b'\nfamily = 'f'\ndefaults = { width = 0, step = 4 }",
            "model 'a:b': defaults.width must be at least 1, not 0; defaults has unknown keys step",
        ),
        (
            "[[model]]\nname = 'a:b'\nfamily = 'f'\n[[model.files]]\npath = 'x'\nsize_bytes = '5'",
            "model 'a:b': files[0].component is required; files[0].size_bytes must be a whole number, not '5'",
        ),
        ("[[model]]\nname = 'a:b'\nfamily = 'f'\nfiles = 'x'", "model 'a:b': files must be a list, not 'x'"),
        (
            "[[model]]\nname = 'a:b'\nfamily = 'f'\nshared = ['encoders']",
            "model 'a:b': shared must be a list of these names: (none); not ['encoders']",
        ),
        (
            "[[shared.x]]\npath = 'y'\n[[model]]\nname = 'a:b'\nfamily = 'f'\nshared = 'x'",
            "model 'a:b': shared must be a list of these names: x; not 'x'",
        ),
        ("[[model]]\nname = 'a:b'\nfamily = 'f'\noptions = 3", "model 'a:b': options must be a table, not 3"),
        ("[[models]]\nname = 'a:b'\nfamily = 'f'", "unknown keys models (known: model, shared)"),
        ("model = ['a:b']", "model 1: must be a [[model]] table"),
        ("model = 5", "models must be in [[model]] tables"),
        ("shared = 5\n[[model]]\nname = 'a:b'\nfamily = 'f'\nshared = ['x']", "shared files in [[shared.NAME]] tables"),
        ("[[model]", "is not valid TOML"),
    ],
)
def test_a_wrong_catalog_is_reported_with_file_model_and_field(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(PluginError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith("catalog.toml")
    assert problem in str(caught.value)


def test_a_catalog_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"nowhere\.toml cannot be read: No such file or directory"):
        read_catalog(tmp_path / "nowhere.toml")


VOCABULARY = Vocabulary(words=("a", "red", "house"), summary="houses")


@pytest.mark.parametrize("prompt", ["a red house", "A RED, red house!", "house 3", ""])
def test_known_words_are_not_remarked_on(prompt: str) -> None:
    assert VOCABULARY.remark(prompt) is None


def test_unknown_words_are_named_once_and_what_is_known_is_said() -> None:
    remark = VOCABULARY.remark("a Dragon, a dragon and a red castle")
    assert remark == "this small model does not know dragon, and, castle; it draws houses"


def test_a_remark_on_a_long_strange_prompt_stays_short() -> None:
    remark = VOCABULARY.remark(" ".join(f"{'x' * 1000}{letter}" for letter in "abcdefgh"))
    assert remark is not None
    assert remark.endswith("… and 4 more; it draws houses")
    assert len(remark) < 250
