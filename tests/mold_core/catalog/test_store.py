"""Which files of a model are here."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from mold_core import ModelFile, ModelNotFoundError, ModelSpec
from mold_core.catalog import ModelStore

SPEC = ModelSpec(
    name="mini:q8",
    family="sketch",
    files=(
        ModelFile(component="transformer", path="mini-q8/1.gguf", size_bytes=3_000_000_000),
        ModelFile(component="transformer", path="mini-q8/2.gguf", size_bytes=500_000_000),
        ModelFile(component="vae", path="shared/ae.safetensors"),
    ),
)


def put(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"12345")


def test_a_model_with_all_its_files_is_found_by_component(tmp_path: Path) -> None:
    put(tmp_path, *(file.path for file in SPEC.files))
    store = ModelStore(tmp_path)
    files = store.locate(SPEC)
    assert store.has(SPEC)
    assert files.by_component["transformer"] == (tmp_path / "mini-q8/1.gguf", tmp_path / "mini-q8/2.gguf")
    assert files.one("vae") == tmp_path / "shared/ae.safetensors"
    assert files.size_bytes() == 15


@pytest.mark.parametrize("component", ["transformer", "clip"])
def test_asking_for_the_one_file_of_several_or_none_is_refused(tmp_path: Path, component: str) -> None:
    put(tmp_path, *(file.path for file in SPEC.files))
    with pytest.raises(KeyError, match=f"files of component '{component}', not one"):
        ModelStore(tmp_path).locate(SPEC).one(component)


def test_missing_files_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    put(tmp_path, "mini-q8/1.gguf")
    store = ModelStore(tmp_path)
    assert [file.path for file in store.missing(SPEC)] == ["mini-q8/2.gguf", "shared/ae.safetensors"]
    with pytest.raises(ModelNotFoundError) as caught:
        store.locate(SPEC)
    assert str(caught.value) == (
        "model 'mini:q8' is not downloaded: 2 of 3 files (0.5 GB) are missing, the first is "
        f"{tmp_path / 'mini-q8/2.gguf'}; download them: mold pull mini:q8"
    )


def test_a_folder_in_the_place_of_a_file_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "mini-q8/1.gguf").mkdir(parents=True)
    assert SPEC.files[0] in ModelStore(tmp_path).missing(SPEC)


def test_a_folder_with_weights_stands_for_them(tmp_path: Path) -> None:
    put(tmp_path, *(file.path for file in SPEC.files[1:]), "mini-q8/1.gguf/model.safetensors")
    assert ModelStore(tmp_path).has(SPEC)


def test_a_model_that_is_being_pulled_is_not_here_yet(tmp_path: Path) -> None:
    put(tmp_path, *(file.path for file in SPEC.files), "mini-q8/.pulling")
    store = ModelStore(tmp_path)
    assert store.missing(SPEC) == SPEC.files
    (tmp_path / "mini-q8/.pulling").unlink()
    assert store.has(SPEC)


def test_an_embedded_model_is_found_beside_its_catalog(tmp_path: Path) -> None:
    put(tmp_path / "wheel", *(file.path for file in SPEC.files))
    store = ModelStore(tmp_path / "models")
    assert not store.has(SPEC)
    assert (
        store.locate(attrs.evolve(SPEC, root=tmp_path / "wheel")).one("vae") == tmp_path / "wheel/shared/ae.safetensors"
    )


def test_a_model_without_files_is_always_here(tmp_path: Path) -> None:
    assert ModelStore(tmp_path / "nowhere").has(ModelSpec(name="plasma:v1", family="plasma"))


def test_a_file_that_cannot_be_looked_at_is_away(tmp_path: Path) -> None:
    file = ModelFile(component="vae", path=str(tmp_path / ("z" * 5000) / "ae.safetensors"))
    spec = ModelSpec(name="mine:bf16", family="sketch", files=(file,))
    assert ModelStore(tmp_path).missing(spec) == ModelStore(tmp_path).away(spec) == (file,)
    with pytest.raises(ModelNotFoundError, match="drive is not mounted"):
        ModelStore(tmp_path).locate(spec)
