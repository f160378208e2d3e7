"""Products in int8: those of comfy-kitchen, by compiled code and by torch's operations, for layers of any kind."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from comfy_files import quantised
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mold_core.settings import ComputeMode
from mold_core.weights import PackedLinear, PackedTensor, int8_linear, load_weights, read_weights, type_named
from mold_core.weights.compile_problems import compile_problems
from mold_core.weights.compiled import compiler
from mold_core.weights.int8_linear import as_int8, int8_product, round_rows
from mold_core.weights.native_code import native_library
from mold_core.weights.rotation import is_rotation, largest_rotation, rotated


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def int8_weight(rows: int, columns: int, group: int, *, per_row: bool = True) -> PackedTensor:
    generator = torch.Generator().manual_seed(rows)
    data = torch.randint(-128, 128, (rows, columns), dtype=torch.int8, generator=generator)
    scale = torch.rand(rows, 1, generator=generator) / 100 if per_row else torch.tensor(0.01)
    kind = type_named("INT8")
    return PackedTensor(data=data.view(torch.uint8), type=kind, shape=(rows, columns), scale=scale, rotation=group)


@pytest.mark.parametrize("compile", ["on", "off"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("inputs", "rows", "columns", "group"),
    [(1, 3, 20, 4), (7, 13, 160, 16), (40, 66, 192, 64), (33, 64, 512, 256), (5, 8, 1024, 1024), (9, 24, 100, 0)],
)
def test_products_are_those_of_comfy_kitchen(
    cache: Path, compile: str, dtype: torch.dtype, inputs: int, rows: int, columns: int, group: int
) -> None:
    from comfy_kitchen.backends.eager.quantization import int8_linear

    weight, bias = int8_weight(rows, columns, group), torch.randn(rows)
    x = torch.randn(inputs, columns).to(dtype)
    product = int8_product("cpu", compile=compile, cache_dir=cache)  # type: ignore[arg-type]
    assert product is not None
    out = product(x, weight.data, weight.scale, group, bias.to(dtype))
    assert out.dtype == dtype
    raw = weight.data.view(torch.int8)
    expected = int8_linear(x.float(), raw, weight.scale, bias.to(dtype).float(), torch.float32, group > 0, group or 256)
    # A number of x that lies between two steps may be rounded to either.
    step = weight.scale.max() * 128 * rotated_largest(x, group) / 127  # type: ignore[union-attr]
    torch.testing.assert_close(out.float(), expected, rtol=0.01, atol=2 * step.item())
    assert (out.float() - expected).norm() / expected.norm() < 0.005


@pytest.mark.parametrize("compile", ["on", "off"])
def test_no_inputs_give_no_results(cache: Path, compile: str) -> None:
    weight = int8_weight(6, 16, 16)
    product = int8_product("cpu", compile=compile, cache_dir=cache)  # type: ignore[arg-type]
    assert product is not None
    assert product(torch.ones(0, 16), weight.data, weight.scale, 16, None).shape == (0, 6)
    assert PackedLinear(weight)(torch.ones(2, 0, 16)).shape == (2, 0, 6)


def rotated_largest(x: Tensor, group: int) -> Tensor:
    numbers = x.float()
    return (rotated(numbers, group) if group else numbers).abs().max()


def test_rotations_undo_themselves_and_keep_lengths() -> None:
    x = torch.randn(3, 512)
    for group in (4, 16, 64, 256):
        turned = rotated(x, group)
        torch.testing.assert_close(rotated(turned, group), x)
        torch.testing.assert_close(turned.norm(), x.norm())
    assert [group for group in range(1, 300) if is_rotation(group)] == [4, 16, 64, 256]
    assert [largest_rotation(columns) for columns in (3072, 160, 100, 66)] == [256, 16, 4, 0]


@pytest.mark.parametrize("compile", ["on", "off"])
def test_numbers_that_are_none_stay_none(cache: Path, compile: str) -> None:
    weight = int8_weight(16, 64, 16)
    product = int8_product("cpu", compile=compile, cache_dir=cache)  # type: ignore[arg-type]
    assert product is not None
    x = torch.randn(3, 64)
    x[0, 5], x[1, 7] = float("nan"), float("inf")
    out = product(x, weight.data, weight.scale, 16, None)
    assert not out[:2].isfinite().any()
    assert out[2].isfinite().all()


def test_rows_are_rounded_alike_with_and_without_a_compiler(cache: Path) -> None:
    numbers = torch.randn(50, 320)
    weight = PackedTensor(
        data=numbers.to(torch.float8_e4m3fn).view(torch.uint8), type=type_named("F8_E4M3"), shape=(50, 320)
    )
    compiled, plain = as_int8(weight, cache_dir=cache), as_int8(weight, compile="off")
    assert compiled.rotation == plain.rotation == 64
    assert (compiled.data.view(torch.int8).int() - plain.data.view(torch.int8).int()).abs().max() <= 1
    torch.testing.assert_close(compiled.expand(), weight.expand(), rtol=0, atol=0.05)
    assert round_rows(torch.zeros(2, 8), 4)[0].eq(0).all()


def network_of(kind: str, tmp_path: Path, compute: ComputeMode, cache: Path) -> tuple[nn.Module, Tensor]:
    weight = torch.randn(128, 512, generator=torch.Generator().manual_seed(0))
    tensors = {"weight": weight.to(torch.float8_e4m3fn)} if kind == "fp8" else quantised(kind, weight)
    save_file({f"0.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "x")
    network = nn.Sequential(nn.Linear(512, 128, bias=False))
    load_weights(network, read_weights(tmp_path / "x"), "x", dtype=torch.bfloat16, compute=compute, cache_dir=cache)
    return network, weight


@pytest.mark.parametrize(
    ("kind", "compute", "int8"),
    [
        ("int8_convrot", "auto", True), ("int8", "auto", True), ("int8_convrot", "exact", False),
        ("fp8", "auto", False), ("fp8", "int8", True), ("fp8", "exact", False), ("nvfp4", "int8", False),
    ],
)  # fmt: skip
def test_the_setting_decides_what_is_multiplied(
    tmp_path: Path, cache: Path, kind: str, compute: ComputeMode, int8: bool
) -> None:
    network, weight = network_of(kind, tmp_path, compute, cache)
    assert isinstance(network[0], PackedLinear)
    assert (network[0].int8_product is not None) == int8
    x = torch.randn(2, 9, 512)
    expected = x @ weight.t()
    assert (network(x.bfloat16()).float() - expected).norm() / expected.norm() < (0.15 if kind == "nvfp4" else 0.05)


def test_memory_left_over_makes_int8_layers_no_slower(tmp_path: Path, cache: Path) -> None:
    tensors = {f"0.{name}": part for name, part in quantised("int8_convrot", torch.randn(128, 512)).items()}
    save_file(tensors, tmp_path / "x")
    network = nn.Sequential(nn.Linear(512, 128, bias=False))
    found = read_weights(tmp_path / "x")
    load_weights(network, found, "x", dtype=torch.bfloat16, dequantize_within_bytes=10**9, cache_dir=cache)
    assert isinstance(network[0], PackedLinear)


def test_code_that_does_not_compile_is_a_warning_once_and_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "false")
    weight = int8_weight(16, 64, 16)
    x = torch.randn(3, 64)
    for _ in range(2):
        product = int8_product("cpu", cache_dir=tmp_path)
        assert product is not None
        expected = F.linear(x, weight.expand())
        out = product(x, weight.data, weight.scale, 16, None)
        assert (out - expected).norm() / expected.norm() < 0.02
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "int8 layers are computed without compiled code" in warning.message
    (note,) = compile_problems(tmp_path)
    assert "false failed" in note


def test_the_note_goes_when_the_code_compiles(tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "int8.failed").write_text("int8: it failed\n")
    assert compile_problems(tmp_path) == ("int8: it failed",)
    with torch.inference_mode():
        assert int8_product("cpu", cache_dir=tmp_path) is not None
    assert compile_problems(tmp_path) == ()


# --- what runs on CUDA, as far as a CPU can show ----------------------------------------------------------------------


def test_the_products_for_cuda_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from mold_core.weights import int8_linear

    weight, bias = int8_weight(64, 512, 256), torch.randn(64).bfloat16()
    kitchen = int8_product("cuda")
    monkeypatch.setattr(int8_linear, "_kitchen_product", lambda: None)
    torch_only = int8_product("cuda")
    assert kitchen is not None
    assert torch_only is not None
    for rows in (1, 17, 40):  # fewer rows than CUDA takes are padded
        x = torch.randn(rows, 512).bfloat16()
        exact = F.linear(x.float(), weight.expand(), bias.float())
        for product in (kitchen, torch_only):
            out = product(x, weight.data, weight.scale, 256, bias)
            assert out.dtype == torch.bfloat16
            assert (out.float() - exact).norm() / exact.norm() < 0.02


def test_an_int8_layer_can_be_part_of_what_torch_compiles() -> None:
    weight = int8_weight(64, 512, 256)
    layer = PackedLinear(weight, torch.randn(64))
    layer.int8_product = int8_product("cpu", compile="off")
    x = torch.randn(40, 512)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(x), layer(x))


@pytest.mark.parametrize("kind", ["nvfp4", "w4a8", "svdquant"])
def test_a_4_bit_layer_can_be_part_of_what_torch_compiles(tmp_path: Path, kind: str) -> None:
    tensors = {f"l.{name}": part.contiguous() for name, part in quantised(kind, torch.randn(64, 512)).items()}
    save_file(tensors, tmp_path / "x")
    packed = read_weights(tmp_path / "x")["l.weight"]
    assert isinstance(packed, PackedTensor)
    layer, x = PackedLinear(packed), torch.randn(4, 512)
    with torch.no_grad():
        compiled = torch.compile(layer, backend="eager", fullgraph=True)(x)
        torch.testing.assert_close(compiled, layer(x))


def test_a_compiler_of_an_older_standard_aligns_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "c++"
    old.write_text(f'#!/bin/sh\nexec {compiler()} -std=gnu++14 "$@"\n')
    old.chmod(0o755)
    monkeypatch.setenv("CXX", str(old))
    native_library(Path(int8_linear.__file__).with_suffix(".cpp"), tmp_path)
