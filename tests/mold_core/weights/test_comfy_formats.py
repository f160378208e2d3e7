"""Quantised layers of ComfyUI's files become the numbers that comfy-kitchen makes of them, and stay packed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_files import mark, quantised, reference
from safetensors.torch import save_file
from torch import Tensor, nn

from mold_core import CheckpointError
from mold_core.weights import PackedEmbedding, PackedLinear, PackedTensor, concatenate, load_weights, read_weights
from mold_core.weights.grouped_kernel import grouped_kernel

ROWS, COLUMNS, GROUP = 80, 512, 256
EXACT = ("int8", "int8_tensor", "int8_convrot", "mxfp8", "nvfp4", "convrot_w4a4", "w4a8", "w6a8", "awq_w4a16")


@pytest.fixture(scope="module")
def weight() -> Tensor:
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))


def read(tmp_path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> dict[str, Any]:
    save_file({f"l.{name}": tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "x", metadata)
    return read_weights(tmp_path / "x")


def packed_of(tmp_path: Path, tensors: dict[str, Tensor]) -> PackedTensor:
    found = read(tmp_path, tensors)
    assert set(found) <= {"l.weight", "l.bias"}
    assert isinstance(found["l.weight"], PackedTensor)
    return found["l.weight"]


@pytest.mark.parametrize("kind", [*EXACT, "w4a8_uncoded"])
def test_numbers_are_those_of_comfy_kitchen(tmp_path: Path, weight: Tensor, kind: str) -> None:
    layer = quantised(kind, weight, GROUP)
    packed = packed_of(tmp_path, layer)
    assert packed.shape == (ROWS, COLUMNS)
    expected = reference(kind, layer, GROUP)
    if kind in EXACT:
        assert torch.equal(packed.expand(), expected)
    torch.testing.assert_close(packed.expand(), expected, rtol=1e-5, atol=1e-5)
    assert packed.size_bytes < 1.15 * (sum(t.nbytes for name, t in layer.items() if name != "comfy_quant"))


@pytest.mark.parametrize("kind", [*EXACT, "w4a8_uncoded", "svdquant", "nf4"])
def test_a_layer_computes_with_its_packed_numbers(tmp_path: Path, weight: Tensor, kind: str) -> None:
    bias = torch.randn(ROWS)
    packed = packed_of(tmp_path, {**quantised(kind, weight, GROUP), "bias": bias})
    layer = PackedLinear(packed, bias)
    x = torch.randn(5, 3, COLUMNS)
    expected = nn.functional.linear(x, packed.expand(), bias)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-3)
    error = (packed.expand() - weight).norm() / weight.norm()
    assert error < (0.02 if kind.startswith("int8") else 0.04 if kind in ("mxfp8", "w6a8") else 0.2)
    half = layer.bfloat16()(x.bfloat16())  # its scales stay as they are
    assert (half.float() - expected).norm() / expected.norm() < 0.01


@pytest.mark.parametrize("kind", [*EXACT, "svdquant", "nf4"])
def test_rows_are_taken_and_joined(tmp_path: Path, weight: Tensor, kind: str) -> None:
    other = packed_of(tmp_path, quantised(kind, 3 * weight.flip(0), GROUP))
    packed = packed_of(tmp_path, quantised(kind, weight, GROUP))
    joined = concatenate([packed, other])
    assert isinstance(joined, PackedTensor)
    torch.testing.assert_close(joined.expand(), torch.cat([packed.expand(), other.expand()]))
    second = packed.chunk(2)[1]
    torch.testing.assert_close(second.expand(), packed.expand()[ROWS // 2 :])


def test_an_embedding_takes_the_rows_it_needs(tmp_path: Path, weight: Tensor) -> None:
    for kind in ("int8", "int8_tensor", "int8_convrot", "nvfp4"):
        layer = quantised(kind, weight, GROUP)
        embedding = PackedEmbedding(packed_of(tmp_path, layer), torch.float32)
        ids = torch.tensor([[3, 79, 0], [3, 3, 1]])
        torch.testing.assert_close(embedding(ids), reference(kind, layer, GROUP)[ids])


def test_svdquant_adds_what_comfy_kitchen_adds(tmp_path: Path, weight: Tensor) -> None:
    from comfy_kitchen.backends.eager.svdquant import scaled_mm_svdquant_w4a4

    layer, bias = quantised("svdquant", weight), torch.randn(ROWS)
    smooth, down = layer["weight_smooth_factor"], layer["weight_proj_down"]
    # Inputs that 4 bits hold exactly: then its arithmetic and full precision agree.
    codes = torch.randint(-7, 8, (6, COLUMNS), dtype=torch.int8)
    x = codes.float() * smooth
    packed_x = ((codes[:, 0::2] & 15) | (codes[:, 1::2] << 4)).to(torch.int8)
    expected = scaled_mm_svdquant_w4a4(
        packed_x, layer["weight"], torch.ones(COLUMNS // 64, 6), layer["weight_scale"], x @ down,
        layer["weight_proj_up"], bias,
    )  # fmt: skip
    got = PackedLinear(packed_of(tmp_path, layer), bias)(x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)


def test_svdquant_in_tiles_is_the_same(tmp_path: Path) -> None:
    weight = torch.randn(256, COLUMNS, generator=torch.Generator().manual_seed(1))
    layer = quantised("svdquant", weight)
    tiled = layer["weight"].view(2, 32, 4, COLUMNS // 64, 32).permute(0, 3, 1, 2, 4).reshape(2, COLUMNS // 64, 32, 128)
    scales = layer["weight_scale"].view(-1, 2, 128).permute(1, 0, 2)
    up = layer["weight_proj_up"].view(2, 128, -1).permute(0, 2, 1)
    other = {**layer, "weight": tiled, "weight_scale": scales, "weight_proj_up": up}
    assert torch.equal(packed_of(tmp_path, other).expand(), packed_of(tmp_path, layer).expand())


def test_svdquant_of_shifted_inputs_shifts_the_bias(tmp_path: Path, weight: Tensor) -> None:
    layer, bias = quantised("svdquant", weight), torch.randn(ROWS)
    shifted = {**layer, "comfy_quant": mark({"format": "svdquant_w4a4", "act_unsigned": True}), "bias": bias}
    plain = packed_of(tmp_path, layer)
    x = torch.randn(4, COLUMNS)
    low_rank = x @ layer["weight_proj_down"] @ layer["weight_proj_up"].t()
    codes = plain.expand() - (layer["weight_proj_down"] @ layer["weight_proj_up"].t()).t()
    expected = (x + 0.171875) @ codes.t() + low_rank + bias
    found = read(tmp_path, shifted)
    torch.testing.assert_close(PackedLinear(found["l.weight"], found["l.bias"])(x), expected, rtol=1e-4, atol=1e-3)


def test_nested_scales_of_bitsandbytes_are_read(tmp_path: Path, weight: Tensor) -> None:
    layer = quantised("nf4", weight)
    largest = layer["weight.absmax"]
    offset, levels = float(largest.mean()), torch.linspace(-1, 1, 256)
    blocks = (largest - offset).view(-1, 128)
    nested = blocks.abs().amax(1)
    codes = ((blocks / nested[:, None])[..., None] - levels).abs().argmin(-1).to(torch.uint8)
    state = {"shape": [ROWS, COLUMNS], "blocksize": 64, "nested_blocksize": 128, "nested_offset": offset}
    double = {
        **layer, "weight.absmax": codes.flatten(), "weight.nested_absmax": nested, "weight.nested_quant_map": levels,
        "weight.quant_state.bitsandbytes__nf4": mark(state),
    }  # fmt: skip
    torch.testing.assert_close(
        packed_of(tmp_path, double).expand(), packed_of(tmp_path, layer).expand(), rtol=0.03, atol=0.03
    )


def test_blocks_of_bitsandbytes_may_end_within_a_row(tmp_path: Path) -> None:
    weight = torch.randn(32, 160, generator=torch.Generator().manual_seed(2))
    packed = packed_of(tmp_path, quantised("nf4", weight))
    assert (packed.expand() - weight).norm() / weight.norm() < 0.12


def test_int8_rows_of_bitsandbytes_are_read(tmp_path: Path, weight: Tensor) -> None:
    largest = weight.abs().amax(1)
    codes = (weight * 127 / largest[:, None]).round().to(torch.int8)
    extra = {"SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    assert torch.equal(
        packed_of(tmp_path, {"weight": codes, **extra}).expand(), codes.float() * (largest / 127)[:, None]
    )


# --- files -----------------------------------------------------------------------------------------------------------


def test_the_header_may_say_what_layers_are(tmp_path: Path, weight: Tensor) -> None:
    layer = quantised("int8_convrot", weight, GROUP)
    config = json.loads(bytes(layer.pop("comfy_quant").tolist()))
    for name in ("l", "model.diffusion_model.l"):
        save_file({f"{name}.{end}": tensor for end, tensor in layer.items()}, tmp_path / "x", {
            "_quantization_metadata": json.dumps({"format_version": "1.0", "layers": {"l": config}})
        })  # fmt: skip
        found = read_weights(tmp_path / "x")[f"{name}.weight"]
        assert isinstance(found, PackedTensor)
        assert torch.equal(found.expand(), reference("int8_convrot", layer, GROUP))


def test_int8_without_a_mark_needs_only_its_scale(tmp_path: Path, weight: Tensor) -> None:
    layer = quantised("int8", weight)
    del layer["comfy_quant"]
    assert torch.equal(packed_of(tmp_path, layer).expand(), reference("int8", layer))


def test_files_mix_formats_and_leave_scales_behind(tmp_path: Path, weight: Tensor) -> None:
    tensors: dict[str, Tensor] = {}
    for kind in ("int8_convrot", "nvfp4", "mxfp8"):
        tensors.update({f"{kind}.{end}": tensor for end, tensor in quantised(kind, weight, GROUP).items()})
    left_over = {
        "weight_scale": torch.ones(()),
        "input_scale": torch.ones(()),
        "comfy_quant": mark({"format": "nvfp4"}),
    }
    tensors.update({"plain.weight": weight.bfloat16(), **{f"plain.{end}": part for end, part in left_over.items()}})
    save_file(tensors, tmp_path / "x")
    found = read_weights(tmp_path / "x")
    assert set(found) == {"int8_convrot.weight", "nvfp4.weight", "mxfp8.weight", "plain.weight"}
    assert torch.equal(found["plain.weight"], weight.bfloat16())
    network = nn.ModuleDict({name.removesuffix(".weight"): nn.Linear(COLUMNS, ROWS, bias=False) for name in found})
    load_weights(network, found, "x", dtype=torch.bfloat16)
    x = torch.randn(4, COLUMNS)
    for name, layer in network.items():
        error = (layer(x.bfloat16()).float() - x @ weight.t()).norm() / (x @ weight.t()).norm()
        assert error < (0.15 if name == "nvfp4" else 0.06), name


NESTED = {"shape": [ROWS, COLUMNS], "blocksize": 64}
BROKEN = {
    "scale": ("int8", {"weight_scale": torch.ones(3)},
        r"l\.weight_scale must be one number, or one for each of 80 rows"),
    "no scale": ("int8", {"weight_scale": None}, r"l\.weight_scale is missing"),
    "whole scale": ("int8", {"weight_scale": torch.ones(ROWS, dtype=torch.int32)}, r"l\.weight_scale must be"),
    "group": ("int8_convrot", {"convrot_groupsize": 32}, r"l\.comfy_quant has convrot_groupsize 32 for 512 columns"),
    "large group": ("int8_convrot", {"convrot_groupsize": 1024}, r"convrot_groupsize 1024 for 512 columns"),
    "text group": ("int8_convrot", {"convrot_groupsize": "x"}, r"convrot_groupsize 'x' where a whole number"),
    "unknown": ("int8", {"format": "int5_magic"}, r"l\.comfy_quant declares the format 'int5_magic'"),
    "no format": ("int8", {"format": None}, r"l\.comfy_quant names no format"),
    "no json": ("int8", {"comfy_quant": torch.tensor([123], dtype=torch.uint8)},
        r"l\.comfy_quant does not hold valid"),
    "list": ("int8", {"comfy_quant": torch.tensor([91, 93], dtype=torch.uint8)}, r"does not hold a JSON object"),
    "blocks": ("nvfp4", {"weight_scale": torch.ones(128, 4).to(torch.float8_e4m3fn)},
        r"l\.weight_scale has 512 numbers"),
    "no second": ("nvfp4", {"weight_scale_2": None}, r"l\.weight_scale_2 is missing"),
    "exponents": ("mxfp8", {"weight_scale": torch.ones(7, dtype=torch.uint8)}, r"l\.weight_scale has 7 numbers"),
    "codebook": ("w4a8", {"weight_codebook": torch.ones(3)},
        r"l\.weight_codebook has the dtype float32 and the shape"),
    "channel": ("w4a8", {"weight_s_channel": None}, r"l\.weight_s_channel is missing"),
    "zeros": ("awq_w4a16", {"weight_zeros": torch.ones(2, 2)}, r"l\.weight_zeros has the dtype"),
    "no group": ("awq_w4a16", {"group_size": 1024}, r"l\.weight has 512 columns, which do not divide"),
    "odd groups": ("awq_w4a16", {"group_size": 100}, r"l\.weight has 512 columns, which do not divide"),
    "one exponent": ("mxfp8", {"weight_scale": torch.tensor(1.0)}, r"l\.weight_scale must hold numbers of 8 bits"),
    "long block": ("nf4", {"weight.quant_state.bitsandbytes__nf4": mark({"shape": [80, 512], "blocksize": 2**40})},
        r"bitsandbytes__nf4 has no shape and even blocksize of up to 65536"),
    "wide absmax": ("nf4", {"weight.absmax": torch.full((640,), 900),
        "weight.quant_state.bitsandbytes__nf4": mark({**NESTED, "nested_blocksize": 64})},
        r"l\.weight\.absmax must hold 640 bytes"),
    "long nested block": ("nf4", {"weight.absmax": torch.ones(640, dtype=torch.uint8),
        "weight.quant_state.bitsandbytes__nf4": mark({**NESTED, "nested_blocksize": 2**40})},
        r"nested_blocksize of up to 65536"),
    "large offset": ("nf4", {"weight.absmax": torch.ones(640, dtype=torch.uint8),
        "weight.quant_state.bitsandbytes__nf4": mark({**NESTED, "nested_blocksize": 64, "nested_offset": 10**400})},
        r"nested_offset"),
    "down": ("svdquant", {"weight_proj_down": torch.ones(2, 2)}, r"l\.weight_proj_down has the dtype"),
    "dtype": ("int8", {"weight": torch.zeros(ROWS, COLUMNS, dtype=torch.uint8)}, r"l\.weight has the dtype uint8"),
    "state": ("nf4", {"weight.quant_state.bitsandbytes__nf4": mark({"shape": [9, 9]})},
        r"bitsandbytes__nf4 has no shape"),
    "absmax": ("nf4", {"weight.absmax": torch.ones(3)},
        r"l\.weight\.absmax has the dtype float32 and the shape \[3\]"),
}  # fmt: skip


@pytest.mark.parametrize("columns", [32, 96])
def test_svdquant_needs_whole_groups(tmp_path: Path, columns: int) -> None:
    layer = {
        "weight": torch.zeros(4, columns // 2, dtype=torch.uint8), "comfy_quant": mark({"format": "svdquant_w4a4"}),
        "weight_scale": torch.ones(columns // 64, 4), "proj_down": torch.ones(columns, 2), "proj_up": torch.ones(4, 2),
        "smooth_factor": torch.ones(columns),
    }  # fmt: skip
    with pytest.raises(CheckpointError, match=f"{columns} columns, which do not divide into groups of 64"):
        read(tmp_path, layer)


@pytest.mark.parametrize("case", BROKEN)
def test_an_error_names_the_tensor_that_is_wrong(tmp_path: Path, weight: Tensor, case: str) -> None:
    kind, changes, words = BROKEN[case]
    layer = quantised(kind, weight, GROUP)
    config = json.loads(bytes(layer["comfy_quant"].tolist())) if "comfy_quant" in layer else {}
    options = {name: value for name, value in changes.items() if name in ("format", "convrot_groupsize", "group_size")}
    if options:
        layer["comfy_quant"] = mark({**config, **options})
    layer.update({name: value for name, value in changes.items() if name not in options})
    with pytest.raises(CheckpointError, match=words):
        read(tmp_path, {name: tensor for name, tensor in layer.items() if tensor is not None})


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("l._weight_qdata", "torchao"), ("l.weight:qdata", "torchao"), ("l.weight._data", "quanto"),
        ("l.wscales", "nunchaku"), ("l.qzeros", "AutoGPTQ"), ("l.W_q", "HQQ"),
    ],
)  # fmt: skip
def test_formats_of_other_libraries_are_refused_by_name(tmp_path: Path, name: str, library: str) -> None:
    save_file({name: torch.zeros(4, 4, dtype=torch.uint8)}, tmp_path / "x")
    with pytest.raises(CheckpointError, match=f"quantised by {library}") as caught:
        read_weights(tmp_path / "x")
    assert "GGUF" in (caught.value.hint or "")


@pytest.mark.parametrize("kind", [*EXACT, "w4a8_uncoded", "svdquant", "nf4"])
def test_compiled_code_writes_the_same_numbers(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, weight: Tensor, kind: str
) -> None:
    kernel = grouped_kernel(cache_dir=tmp_path_factory.getbasetemp() / "codes")
    assert kernel is not None
    packed = packed_of(tmp_path, quantised(kind, weight, GROUP))
    torch.testing.assert_close(packed.expand(kernel=kernel), packed.expand(), rtol=1e-5, atol=1e-6)
