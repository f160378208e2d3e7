"""The compiled product with int8 weights: what rows give, whatever is beside them, and what happens without it."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch
from gguf_files import random_blocks
from torch import nn
from torch.nn import functional as F

from mold_core import MoldError
from mold_core.weights import (
    Int8Linear,
    PackedEmbedding,
    PackedLinear,
    PackedTensor,
    Scratch,
    compiled_product,
    to_int8,
)
from mold_core.weights.compiled import compiler
from mold_core.weights.int8 import Int8Packed, Int8Rows
from mold_core.weights.int8_gemm import Multiply, _check, pack_rows, unpack_rows
from mold_core.weights.types import type_named

COLUMNS = 288


def packed(rows: int, seed: int = 0) -> PackedTensor:
    blocks = torch.from_numpy(random_blocks("Q8_0", rows, COLUMNS, seed=seed))
    return PackedTensor(data=blocks, type=type_named("Q8_0"), shape=(rows, COLUMNS))


@pytest.fixture(scope="module")
def multiply(tmp_path_factory: pytest.TempPathFactory) -> Multiply:
    try:
        compiler()
    except MoldError as error:
        pytest.skip(str(error))
    made = compiled_product(cache_dir=tmp_path_factory.mktemp("cache"))
    assert made is not None
    return made


def test_a_word_of_a_panel_has_four_rows_that_are_16_apart() -> None:
    rows = torch.arange(128 * 3).view(128, 3)
    panels = pack_rows(rows)
    assert panels.shape == (2, 3, 16, 4)
    assert panels[1, 2, 5].tolist() == [rows[64 + row, 2].item() for row in (5, 21, 37, 53)]
    assert torch.equal(unpack_rows(panels), rows)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
def test_panels_give_what_their_rows_give(multiply: Multiply, count: int, threads: int) -> None:
    weight = packed(192)
    rows, panels = Int8Rows.of(weight), Int8Packed.of(weight, multiply)
    assert torch.equal(panels.expand(), rows.expand())
    ids = torch.tensor([[0, 191], [64, 17]])
    assert torch.equal(panels.take(ids), rows.take(ids))
    torch.manual_seed(count)
    x = torch.randn(count, COLUMNS)
    wanted = F.linear(x.double(), rows.expand().double())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        few = panels.multiply_few(x)
    finally:
        torch.set_num_threads(before)
    assert few.dtype == torch.float32
    assert (few - wanted).abs().max() < 1e-5 * wanted.std()
    for number, row in enumerate(x):  # to the last bit, alone or beside others
        assert torch.equal(panels.multiply_few(row[None])[0], few[number])


@pytest.mark.parametrize("scratch", [1, 70 * COLUMNS, 2**23])
def test_many_rows_are_multiplied_in_pieces(multiply: Multiply, scratch: int) -> None:
    layer = Int8Linear(Int8Packed.of(packed(192), multiply), torch.randn(192), Scratch(numbers=scratch))
    x = torch.randn(2, 20, COLUMNS)
    wanted = F.linear(x, layer.rows.expand(), layer.bias)
    assert layer(x).shape == wanted.shape
    assert (layer(x) - wanted).abs().max() / wanted.std() < 0.05
    some = layer(x[:1, :2])  # few rows are multiplied without rounding
    assert (some - wanted[:1, :2]).abs().max() / wanted.std() < 1e-5


def test_layers_of_64_n_rows_become_panels_and_others_rows(multiply: Multiply) -> None:
    network = nn.Sequential(PackedEmbedding(packed(128), torch.bfloat16), PackedLinear(packed(96)))
    before = network(torch.tensor([3, 5]))
    to_int8(network, torch.bfloat16, multiply)
    assert [type(layer.rows) for layer in network] == [Int8Packed, Int8Rows]
    after = network(torch.tensor([3, 5]))
    assert F.cosine_similarity(after.flatten().float(), before.flatten().float(), dim=0) > 0.999


def test_a_product_is_compiled_once_and_leaves_denormals_alone(tmp_path: Path, multiply: Multiply) -> None:
    assert compiled_product(cache_dir=tmp_path) is not None
    (library,) = (tmp_path / "kernels").iterdir()
    copied = tmp_path / "elsewhere" / "kernels" / library.name
    copied.parent.mkdir(parents=True)
    shutil.copy(library, copied)
    made = copied.stat().st_mtime_ns
    assert compiled_product(cache_dir=tmp_path / "elsewhere") is not None
    assert copied.stat().st_mtime_ns == made
    assert torch.tensor(1e-40).mul(1).item() != 0


def test_off_means_that_nothing_is_compiled(tmp_path: Path) -> None:
    assert compiled_product("off", tmp_path) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("command", "words"), [("no-such-compiler", "no C++ compiler"), ("false", "false failed")])
def test_without_a_compiler_torch_multiplies_and_the_log_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, command: str, words: str
) -> None:
    monkeypatch.setenv("CXX", command)
    caplog.set_level(logging.INFO, "mold.weights")
    assert compiled_product(cache_dir=tmp_path) is None
    assert compiled_product(cache_dir=tmp_path) is None
    (last,) = [record.message for record in caplog.records if "without compiled code" in record.message]
    assert words in last
    assert [path.suffix for path in tmp_path.glob("kernels/*")] == [".failed"]


def test_a_damaged_library_is_removed_and_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mold_core.weights.native_code.digest_of", lambda *parts: "digest")
    (tmp_path / "kernels").mkdir()
    library = tmp_path / "kernels" / "int8_gemm-digest.so"
    library.write_bytes(b"\x7fELF no library")
    assert compiled_product(cache_dir=tmp_path) is None
    assert not library.exists()


def test_a_product_that_computes_other_numbers_is_refused() -> None:
    _check(lambda x, panels, scales: x @ unpack_rows(panels).float().T * scales)
    with pytest.raises(MoldError, match="wrong numbers"):
        _check(lambda x, panels, scales: x @ unpack_rows(panels).float().T)
