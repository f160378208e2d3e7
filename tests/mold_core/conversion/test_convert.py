"""Pickle files of weights become safetensors; files that would run code, or take a machine down, are refused unread."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mold_core import CheckpointError, OutputError
from mold_core.conversion import convert_pickle
from mold_core.conversion.process import convert


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    shared = torch.randn(4, 6)
    return {"a.weight": shared, "b.weight": shared.t(), "c.bias": torch.randn(5).half(), "steps": torch.tensor(7)}


@pytest.mark.parametrize("zipped", [True, False])
def test_every_tensor_comes_through_as_it_was(zipped: bool, tmp_path: Path) -> None:
    source, target = tmp_path / "a.pth", tmp_path / "a.safetensors"
    torch.save(collections.OrderedDict(weights()), source, _use_new_zipfile_serialization=zipped)
    assert convert(source, target) == {"tensors": 4, "skipped": 0}
    found = load_file(target)
    assert found.keys() == weights().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights().items())
    assert found["c.bias"].dtype == torch.float16


def test_the_averaged_weights_of_a_training_are_taken_without_the_rest(tmp_path: Path) -> None:
    content = {
        "params": {name: tensor + 1 for name, tensor in weights().items()},
        "params_ema": weights(),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(9)}}},
        "iter": 400_000,
    }
    torch.save(content, tmp_path / "a.pth")
    assert convert(tmp_path / "a.pth", tmp_path / "a.safetensors") == {"tensors": 4, "skipped": 0}
    assert torch.equal(load_file(tmp_path / "a.safetensors")["a.weight"], weights()["a.weight"])


def test_other_values_are_counted_and_left_out(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "name": "x", "inner": {"weight": torch.ones(2)}}, tmp_path / "a.pth")
    assert convert(tmp_path / "a.pth", tmp_path / "a.safetensors") == {"tensors": 1, "skipped": 2}
    assert list(load_file(tmp_path / "a.safetensors")) == ["inner.weight"]


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._path}",)


class Imports:
    """Calls a function of a module that is imported for it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return subprocess.check_call, (["touch", str(self._path)],)


def plain(value: object) -> bytes:
    return pickle.dumps(value, protocol=2)


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "a command": lambda path: saved({"weight": Runs(path)}),
    "a command beside weights": lambda path: saved({**weights(), "x": Imports(path)}),
    "a command in a plain pickle": lambda path: plain({"weight": Runs(path)}),
    "the old form": lambda path: b"\x80\x02cposix\nsystem\nX" + struct.pack("<I", len(f"touch {path}"))
    + f"touch {path}".encode() + b"\x85R.",
    "builtins": lambda path: b"\x80\x02cbuiltins\neval\nX" + struct.pack("<I", len(f"open({str(path)!r}, 'w')"))
    + f"open({str(path)!r}, 'w')".encode() + b"\x85R.",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(name: str, tmp_path: Path) -> None:
    proof = tmp_path / "it-ran"
    (tmp_path / "a.pth").write_bytes(HOSTILE[name](proof))
    assert "nothing of it was run" in convert(tmp_path / "a.pth", tmp_path / "a.safetensors")["error"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_the_process_that_reads_refuses_it_too_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(HOSTILE["a command"](tmp_path / "it-ran"))
    with pytest.raises(CheckpointError, match=r"it refers to posix.system, .* nothing of it was run"):
        convert_pickle(tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def bomb_of_views() -> bytes:
    """A tensor of one number that claims to be terabytes by a stride of zero."""
    return saved({"weight": torch.ones(1).expand(1 << 20, 1 << 20)})


def bomb_of_zeros() -> bytes:
    """Two gigabytes of zeros, deflated to two megabytes."""
    tensor = torch.zeros(1 << 29)
    buffer, packed = io.BytesIO(), io.BytesIO()
    torch.save({"weight": tensor}, buffer)
    with (
        zipfile.ZipFile(buffer) as plain_zip,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out,
    ):
        for entry in plain_zip.infolist():
            with plain_zip.open(entry) as source, out.open(entry.filename, "w", force_zip64=True) as target:
                while piece := source.read(1 << 24):
                    target.write(piece)
    return packed.getvalue()


def test_a_tensor_far_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(bomb_of_views())
    assert "far larger than the file" in convert(tmp_path / "a.pth", tmp_path / "a.safetensors")["error"]


@pytest.mark.soak
def test_gigabytes_of_zeros_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(bomb_of_zeros())
    with pytest.raises(CheckpointError):
        convert_pickle(tmp_path / "a.pth", tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("data", "words"),
    [(saved(weights())[:600], "damaged"), (saved([torch.ones(2)]), "by name"), (saved({"n": 1}), "no tensors")],
)
def test_damaged_files_and_files_without_weights_are_refused(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(data)
    assert words in convert(tmp_path / "a.pth", tmp_path / "a.safetensors")["error"]


def test_other_files_are_refused_without_a_process(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(CheckpointError, match="no pickle file"):
        convert_pickle(tmp_path / "a.pth", tmp_path / "a.safetensors")


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "a.pth")
    (tmp_path / "a.safetensors").write_bytes(b"mine")
    with pytest.raises(OutputError, match="already exists"):
        convert_pickle(tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == b"mine"


def test_the_command_line_converts_what_it_refuses_to_load(mold: Any, tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "a.pth")
    refused = mold("info", "a.pth")
    assert "mold convert" in refused.stdout + refused.stderr
    done = mold("convert", "a.pth")
    assert done.returncode == 0, done.stderr
    assert "a.safetensors  4 tensors" in done.stdout
    assert load_file(tmp_path / "a.safetensors").keys() == weights().keys()
    assert mold("convert", "a.pth").returncode != 0
