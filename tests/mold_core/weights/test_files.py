"""Weight files are told by their content; safetensors headers are read whole or refused; pickles never."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_files import write_gguf
from safetensors.torch import save_file

from mold_core import CheckpointError
from mold_core.weights import PackedTensor, TensorSource, WeightFile, open_weights, read_weights, type_named


def safetensors_of(header: Any, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def tensor(begin: int, end: int, shape: Any = (4,), dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_names_of_files_say_nothing(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "x.gguf")
    write_gguf(tmp_path / "x.safetensors", {"a": torch.ones(2)}, {})
    formats = {name: open_weights(tmp_path / name).format for name in ("x.gguf", "x.safetensors")}  # type: ignore[attr-defined]
    assert formats == {"x.gguf": "safetensors", "x.safetensors": "gguf"}


def test_safetensors_of_every_type_come_out_as_saved(tmp_path: Path) -> None:
    saved = {
        str(dtype): (torch.arange(6).view(2, 3) % 2).to(dtype)
        for dtype in (
            torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
            torch.int8, torch.uint8, torch.bool,
        )
    }  # fmt: skip
    saved |= {"scalar": torch.tensor(3.0), "empty": torch.empty(0, 4)}
    save_file(saved, tmp_path / "x", metadata={"who": "test"})
    file = open_weights(tmp_path / "x")
    assert file.metadata == {"who": "test"}  # type: ignore[attr-defined]
    for name, expected in saved.items():
        read = file[name].read()
        assert isinstance(read, torch.Tensor)
        assert read.dtype == expected.dtype
        assert torch.equal(read, expected)


def test_reading_copies_nothing_and_writing_does_not_reach_the_file(tmp_path: Path) -> None:
    save_file({"a": torch.ones(4)}, tmp_path / "x")
    source = open_weights(tmp_path / "x")["a"]
    first, second = source.read(), source.read()
    assert isinstance(first, torch.Tensor)
    assert isinstance(second, torch.Tensor)
    assert first.data_ptr() == second.data_ptr()
    first.fill_(7)
    assert torch.equal(read_weights(tmp_path / "x")["a"], torch.ones(4))  # type: ignore[arg-type]


def test_opening_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, mold_core.weights; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


EMPTY = b'{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'

DAMAGED = {
    "no length": (b"\0\0\0", ""),
    "a length beyond the file": (struct.pack("<Q", 5000) + b"{}", "claims 5000 bytes"),
    "no JSON": (safetensors_of(b"{not json}"), "not a JSON"),
    "deep JSON": (safetensors_of(b'{"a":' * 60_000), "not a JSON"),
    "a huge number": (safetensors_of(b'{"a":' + b"9" * 9000 + b"}"), "'a' lacks"),
    "twice the same": (safetensors_of(b'{"a":%s,"a":%s}' % (EMPTY, EMPTY)), "duplicate"),
    "metadata twice": (safetensors_of(b'{"__metadata__":{},"__metadata__":{}}'), "duplicate"),
    "metadata that says something twice": (safetensors_of(b'{"__metadata__":{"a":"b","a":"c"}}'), "duplicate"),
    "more after its end": (safetensors_of(b'{"a":%s}{}' % EMPTY), "not a JSON"),
    "an endless entry": (safetensors_of(b'{"a":{"dtype":"U8","shape":[%s1]}}' % (b"1," * 5000)), "not a JSON"),
    "twice the same place": (
        safetensors_of(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"dtype":"I8"}}', b"x"),
        "duplicate",
    ),
    "metadata of numbers": (safetensors_of({"__metadata__": {"a": 1}}), "metadata"),
    "no place": (safetensors_of({"a": {"dtype": "U8", "shape": [1]}}), "'a' lacks"),
    "no table": (safetensors_of({"a": 3}), "'a' lacks"),
    "unknown type": (safetensors_of({"a": tensor(0, 4, dtype="F4")}, bytes(4)), "'a' is stored as 'F4'"),
    "negative shape": (safetensors_of({"a": tensor(0, 4, (-2, -2))}, bytes(4)), "an invalid shape"),
    "endless shape": (safetensors_of({"a": tensor(0, 4, (2**60,))}, bytes(4)), "an invalid shape"),
    "another size": (safetensors_of({"a": tensor(0, 3)}, bytes(4)), "not at bytes 0 to 3"),
    "beyond the file": (safetensors_of({"a": tensor(0, 400, (400,))}, bytes(4)), "not at bytes 0 to 400"),
    "backwards": (safetensors_of({"a": tensor(4, 0)}, bytes(4)), "not at bytes 4 to 0"),
    "overlapping": (safetensors_of({"a": tensor(0, 4), "b": tensor(2, 6)}, bytes(6)), "'b' does not follow"),
    "a gap": (safetensors_of({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12)), "'b' does not follow"),
    "bytes left over": (safetensors_of({"a": tensor(0, 4)}, bytes(5)), "its tensors end"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_safetensors_file_is_refused_with_its_path(tmp_path: Path, case: str) -> None:
    content, words = DAMAGED[case]
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"bad\.safetensors: .*{words}") as caught:
        open_weights(tmp_path / "bad.safetensors")
    assert len(str(caught.value)) < 500


def test_a_safetensors_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(4), "b": torch.zeros(2, 3, dtype=torch.int8)}, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            open_weights(tmp_path / "cut")


@pytest.mark.parametrize("legacy", [True, False])
def test_pickles_are_refused(tmp_path: Path, legacy: bool) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "x.safetensors", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="pickle file"):
        open_weights(tmp_path / "x.safetensors")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "page").write_text("<html>not found</html>")
    (tmp_path / "empty").touch()
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("a", "b")
    expected = {
        "page": "neither",
        "empty": "empty",
        "zip": "pickle file",
        "absent": "cannot be read",
        ".": "one set of weights",
    }
    for name, words in expected.items():
        with pytest.raises(CheckpointError, match=words):
            open_weights(tmp_path / name)


class Raw:
    """A format of a plugin: a letter R, then bytes."""

    name = "raw"

    def recognises(self, path: Path, head: bytes) -> bool:
        return head.startswith(b"R")

    def open(self, path: Path) -> WeightFile:
        content = bytearray(path.read_bytes())
        count = len(content) - 1
        source = TensorSource(
            name="a", shape=(count,), type=type_named("U8"), size_bytes=count, offset=1, buffer=content
        )
        return WeightFile(path=path, format="raw", tensors={"a": source})


def test_a_loader_of_a_plugin_is_asked_after_the_built_in_ones(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"R\x01\x02")
    assert torch.equal(
        read_weights(tmp_path / "x", [Raw()])["a"],  # type: ignore[arg-type]
        torch.tensor([1, 2], dtype=torch.uint8),
    )


# --- fp8 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weight_scale", "scale_weight"])
def test_an_fp8_weight_takes_its_scale_with_it(tmp_path: Path, name: str) -> None:
    weight = torch.randn(4, 8).to(torch.float8_e4m3fn)
    extra = {"l.input_scale": torch.ones(()), "l.scale_input": torch.ones(()), "scaled_fp8": torch.empty(2).to(weight)}
    save_file({"l.weight": weight, f"l.{name}": torch.tensor([0.25]), "l.bias": torch.ones(4), **extra}, tmp_path / "x")
    read = read_weights(tmp_path / "x")
    assert set(read) == {"l.bias", "l.weight"}
    packed = read["l.weight"]
    assert isinstance(packed, PackedTensor)
    assert torch.equal(packed.expand(), weight.float() * 0.25)


def test_an_fp8_weight_without_scale_is_taken_as_it_is(tmp_path: Path) -> None:
    weight = torch.randn(4, 8).to(torch.float8_e5m2)
    save_file({"l.weight": weight}, tmp_path / "x")
    packed = read_weights(tmp_path / "x")["l.weight"]
    assert isinstance(packed, PackedTensor)
    assert packed.scale is None
    assert torch.equal(packed.expand(), weight.float())


def test_a_scale_of_another_size_is_refused(tmp_path: Path) -> None:
    weight = torch.randn(4, 8).to(torch.float8_e4m3fn)
    save_file({"l.weight": weight, "l.weight_scale": torch.ones(3)}, tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"x: l\.weight_scale must be one number, or one for each of 4 rows"):
        read_weights(tmp_path / "x")


def test_a_scale_beside_a_weight_that_is_not_fp8_is_left_for_the_network_to_refuse(tmp_path: Path) -> None:
    save_file({"l.weight": torch.ones(2), "l.weight_scale": torch.ones(())}, tmp_path / "x")
    assert set(read_weights(tmp_path / "x")) == {"l.weight", "l.weight_scale"}
