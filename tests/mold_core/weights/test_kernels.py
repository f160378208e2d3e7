"""What compilers are given computes gguf-py's numbers to the last bit, and is used where it pays and works."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf_files import ODD_HALVES, QUANTISED, adversarial_blocks, expanded, random_blocks, same_bits
from torch import Tensor, nn
from torch.nn import functional as F

from mold_core import MoldError
from mold_core.weights import Kernel, PackedLinear, PackedTensor, kernel_for, load_weights, type_named, weight_bytes
from mold_core.weights.compiled import WORTH_COMPILING, _check, _compiled_where_used
from mold_core.weights.kernels import KERNELS

FP8 = {"INT8": torch.int8, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}


def any_blocks(kind: str) -> np.ndarray:
    """Return adversarial blocks, then random bytes."""
    size = type_named(kind).block_bytes
    return np.concatenate(
        [adversarial_blocks(kind), np.random.default_rng(0).integers(0, 256, (3000, size), dtype=np.uint8)]
    )


def packed(kind: str, rows: int, columns: int) -> tuple[PackedTensor, Tensor]:
    blocks = random_blocks(kind, rows, columns)
    weight = PackedTensor(data=torch.from_numpy(blocks), type=type_named(kind), shape=(rows, columns))
    return weight, expanded(blocks, kind)


def uncompiled(kind: str, dtype: torch.dtype) -> Kernel:
    """Return a kernel as if it were compiled."""
    return Kernel(type=type_named(kind), dtype=dtype, place="cpu", run=KERNELS[kind])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", QUANTISED)
def test_the_source_of_every_kernel_computes_gguf_pys_numbers(kind: str, dtype: torch.dtype) -> None:
    blocks = any_blocks(kind)
    raw, out = torch.from_numpy(blocks), torch.empty(len(blocks), type_named(kind).block_size, dtype=dtype)
    KERNELS[kind](raw, raw.view(torch.float16), out)
    assert len(blocks) > len(ODD_HALVES) ** 2
    assert same_bits(out, expanded(blocks, kind).to(dtype))


@pytest.mark.parametrize("kind", FP8)
def test_the_source_for_fp8_computes_every_number_times_its_scale(kind: str) -> None:
    raw, scales = torch.arange(256, dtype=torch.uint8).repeat(3, 1), torch.tensor([[1.0], [0.3], [1e-3]])
    out = torch.empty(3, 256)
    KERNELS[kind](raw, scales, out)
    assert same_bits(out, raw.view(FP8[kind]).float() * scales)


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_layer_uses_its_kernel_for_the_dtype_it_was_made_for(kind: str) -> None:
    weight, dense = packed(kind, 70, 512)
    x = torch.randn(3, 512)
    calls: list[tuple[int, ...]] = []

    def noting(blocks: Tensor, halves: Tensor, out: Tensor) -> None:
        calls.append(tuple(out.shape))
        KERNELS[kind](blocks, halves, out)

    kernel = Kernel(type=weight.type, dtype=torch.bfloat16, place="cpu", run=noting)
    layer = PackedLinear(weight, kernel=kernel)
    assert torch.equal(layer(x), F.linear(x, dense))
    assert not calls
    assert torch.equal(layer(x.bfloat16()), F.linear(x.bfloat16(), dense.bfloat16()))
    assert calls == [(70 * 512 // weight.type.block_size, weight.type.block_size)]
    assert torch.equal(weight.expand(torch.bfloat16, kernel), dense.bfloat16())


@pytest.mark.parametrize("scale", [None, torch.tensor(0.3), torch.rand(70, 1)])
@pytest.mark.parametrize("kind", FP8)
def test_an_fp8_layer_gives_its_kernel_the_scales(kind: str, scale: Tensor | None) -> None:
    data = torch.randn(70, 48).to(FP8[kind]).view(torch.uint8)
    weight = PackedTensor(data=data, type=type_named(kind), shape=(70, 48), scale=scale)
    x = torch.randn(3, 48)
    assert torch.equal(
        PackedLinear(weight, kernel=uncompiled(kind, torch.float32))(x), F.linear(x, weight.expand(torch.float32))
    )


# --- where a kernel comes from ------------------------------------------------------------------------------------


def test_a_little_work_is_not_worth_a_compiler(tmp_path: Path) -> None:
    assert kernel_for(type_named("Q4_0"), torch.bfloat16, work=WORTH_COMPILING - 1, cache_dir=tmp_path) is None
    assert kernel_for(type_named("Q4_0"), torch.bfloat16, work=10**15, compile="off", cache_dir=tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_without_a_compiler_there_is_no_kernel_and_the_log_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    caplog.set_level(logging.INFO, "mold.weights")
    assert kernel_for(type_named("Q4_0"), torch.bfloat16, work=0, compile="on", cache_dir=tmp_path) is None
    assert kernel_for(type_named("Q4_0"), torch.bfloat16, work=0, compile="on", cache_dir=tmp_path) is None
    (record,) = caplog.records
    assert "Q4_0 is dequantized without compiled code" in record.message
    assert "no-such-compiler" in record.message


def test_a_damaged_library_is_removed_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mold_core.weights.compiled._digest", lambda: "digest")
    caplog.set_level(logging.INFO, "mold.weights")
    (tmp_path / "kernels").mkdir()
    library = tmp_path / "kernels" / "Q6_K-bfloat16-digest.so"
    library.write_bytes(b"\x7fELF no library")
    assert kernel_for(type_named("Q6_K"), torch.bfloat16, work=0, cache_dir=tmp_path) is None
    assert "Q6_K is dequantized without compiled code" in caplog.text
    assert not library.exists()


def test_a_kernel_that_computes_other_numbers_is_refused() -> None:
    type_ = type_named("Q4_K")
    _check(KERNELS["Q4_K"], type_, torch.bfloat16, "cpu")
    with pytest.raises(MoldError, match="wrong numbers"):
        _check(lambda blocks, halves, out: out.zero_(), type_, torch.bfloat16, "cpu")  # type: ignore[arg-type]


@pytest.mark.soak
@pytest.mark.parametrize("kind", [*QUANTISED, *FP8])
def test_a_compiled_kernel_computes_the_same_bits(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "cache"
    with torch.inference_mode():  # where a network may first need it
        kernel = kernel_for(type_named(kind), torch.bfloat16, work=0, compile="on", cache_dir=folder)
    assert kernel is not None
    if kind in FP8:
        raw, scales = torch.arange(256, dtype=torch.uint8).repeat(3, 1), torch.tensor([[1.0], [0.3], [1e-3]])
        out = torch.empty(3, 256, dtype=torch.bfloat16)
        kernel.expand(out, raw, scales)
        assert same_bits(out, (raw.view(FP8[kind]).float() * scales).bfloat16())
        return
    blocks = any_blocks(kind)
    out = torch.empty(len(blocks), kernel.type.block_size, dtype=torch.bfloat16)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        kernel.expand(out.zero_(), torch.from_numpy(blocks), None)
        assert same_bits(out, expanded(blocks, kind).bfloat16())
    assert torch.tensor(1e-40).mul(1).item() != 0  # the library left the processor's treatment of denormals alone


@pytest.mark.soak
def test_kernels_compiled_where_they_are_used_compute_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    run = _compiled_where_used(type_named("Q4_K"), torch.bfloat16, "cpu", tmp_path)
    blocks = torch.from_numpy(any_blocks("Q4_K"))
    out = torch.empty(len(blocks), 256, dtype=torch.bfloat16)
    with torch.inference_mode():
        run(blocks, blocks.view(torch.float16), out)
    assert same_bits(out, expanded(blocks.numpy(), "Q4_K").bfloat16())


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["Q4_0", "Q6_K"])
def test_a_packed_layer_can_be_part_of_what_torch_compiles(kind: str) -> None:
    weight, dense = packed(kind, 32, 256)
    layer, x = PackedLinear(weight, torch.ones(32)), torch.randn(3, 256)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(x), F.linear(x, dense, torch.ones(32)))


# --- dense at once where there is room ----------------------------------------------------------------------------


def test_weights_are_made_dense_where_all_of_them_fit() -> None:
    weight, dense = packed("Q4_0", 64, 32)
    tensors = {"weight": weight, "bias": torch.zeros(64)}
    wanted = weight_bytes(tensors, torch.bfloat16, expand=True)
    assert wanted == 64 * 32 * 2 + 64 * 2
    assert weight_bytes(tensors, torch.bfloat16) == 64 * 18 + 64 * 2
    for room, kind in ((wanted, nn.Linear), (wanted - 1, PackedLinear)):
        holder = nn.ModuleDict({"layer": nn.Linear(32, 64)})
        named = {f"layer.{name}": tensor for name, tensor in tensors.items()}
        load_weights(holder, named, "x", dtype=torch.bfloat16, dequantize_within_bytes=room)
        assert type(holder["layer"]) is kind
        x = torch.randn(2, 32).bfloat16()
        assert torch.equal(holder["layer"](x), F.linear(x, dense.bfloat16(), torch.zeros(64).bfloat16()))
