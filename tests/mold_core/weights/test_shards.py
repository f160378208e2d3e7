"""Weights in several files are read as one: GGUF and safetensors shards, an index, a folder of diffusers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from gguf_files import write_gguf
from safetensors.torch import save_file

from mold_core import CheckpointError
from mold_core.weights import open_weights, read_weights

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4), "c": torch.zeros(2)}
NAMES = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]


def sharded(folder: Path) -> Path:
    for (name, tensor), file in zip(TENSORS.items(), NAMES, strict=True):
        save_file({name: tensor}, folder / file)
    index = {"metadata": {}, "weight_map": dict(zip(TENSORS, NAMES, strict=True))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("entry", ["", "model.safetensors.index.json", *NAMES])
def test_any_shard_the_index_and_the_folder_stand_for_all_shards(tmp_path: Path, entry: str) -> None:
    found = read_weights(sharded(tmp_path) / entry)
    assert set(found) == set(TENSORS)
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())  # type: ignore[arg-type]


def test_gguf_shards(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b"), start=1):
        write_gguf(tmp_path / f"m-0000{number}-of-00002.gguf", {name: TENSORS[name]}, {})
    assert set(open_weights(tmp_path / "m-00001-of-00002.gguf")) == {"a", "b"}


def test_a_folder_of_one_file_is_that_file(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert set(open_weights(tmp_path)) == set(TENSORS)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    (sharded(tmp_path) / NAMES[1]).unlink()
    for entry in ("", NAMES[0]):
        with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors missing"):
            open_weights(tmp_path / entry)


def test_a_folder_of_several_weights_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="one set of weights, and this one has: none"):
        open_weights(tmp_path)
    for name in ("a", "b"):
        save_file(TENSORS, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.safetensors, b\.safetensors"):
        open_weights(tmp_path)


@pytest.mark.parametrize("index", ["[]", "{}", "junk", '{"weight_map": {"a": "../x"}}', '{"weight_map": {}}'])
def test_an_index_names_files_beside_it_only(tmp_path: Path, index: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(index)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        open_weights(path)


def test_a_tensor_in_two_shards_is_an_error(tmp_path: Path) -> None:
    for number in (1, 2):
        save_file({"a": TENSORS["a"]}, tmp_path / f"m-0000{number}-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="'a' is in another shard too"):
        open_weights(tmp_path / "m-00001-of-00002.safetensors")


@pytest.mark.parametrize("name", ["model.gguf", NAMES[0], "model.safetensors.index.json"])
def test_a_path_that_cannot_be_looked_at_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / ("z" * 5000) / name
    with pytest.raises(CheckpointError, match=name):
        open_weights(path)
