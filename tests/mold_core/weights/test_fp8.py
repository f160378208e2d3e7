"""Products of fp8 numbers, where the hardware has them, come close to those of the numbers they stand for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mold_core.weights import PackedLinear, PackedTensor, concatenate, load_weights, read_weights, type_named
from mold_core.weights.fp8 import multiplies_fp8, scaled_linear


def fp8(rows: int, columns: int, scale: Tensor | None, input_scale: Tensor | None = None) -> PackedTensor:
    data = torch.randn(rows, columns).to(torch.float8_e4m3fn).view(torch.uint8)
    type_ = type_named("F8_E4M3")
    return PackedTensor(data=data, type=type_, shape=(rows, columns), scale=scale, input_scale=input_scale)


@pytest.mark.parametrize("scale", [None, torch.tensor(0.3), torch.rand(48, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exact_inputs_give_exact_products(scale: Tensor | None, dtype: torch.dtype) -> None:
    weight = fp8(48, 64, scale)
    x = torch.randint(-8, 9, (2, 5, 64)).to(dtype)  # numbers that e4m3 has
    bias = torch.randn(48).to(dtype)
    got = scaled_linear(x, weight.data, scale, bias, torch.ones(()))
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), F.linear(x.float(), weight.expand(), bias.float()), atol=0.2, rtol=0.01)
    if dtype == torch.float32:
        # The products are exact; their sums are rounded in another order.
        torch.testing.assert_close(got, F.linear(x, weight.expand(), bias), atol=1e-4, rtol=1e-5)


def test_any_inputs_are_scaled_to_what_fits() -> None:
    weight = fp8(48, 64, torch.tensor(0.3))
    for size in (1e-6, 1.0, 1e5):
        x = torch.randn(200, 64) * size
        expected = F.linear(x, weight.expand())
        error = (scaled_linear(x, weight.data, weight.scale, None) - expected).square().mean().sqrt()
        assert 0.001 < error / expected.square().mean().sqrt() < 0.05
    assert not scaled_linear(torch.zeros(2, 64), weight.data, weight.scale, None).any()


def test_an_input_scale_of_the_file_is_used(tmp_path: Path) -> None:
    weight = torch.randn(16, 32).to(torch.float8_e4m3fn)
    extra = {"l.weight_scale": torch.tensor(0.5), "l.input_scale": torch.tensor([0.01])}
    save_file({"l.weight": weight, **extra}, tmp_path / "x")
    read = read_weights(tmp_path / "x")["l.weight"]
    assert isinstance(read, PackedTensor)
    assert read.input_scale is not None
    layer = PackedLinear(read)
    layer.multiply_fp8 = True
    x = torch.full((1, 32), 100.0)  # more than 448 times the scale: cut off
    torch.testing.assert_close(layer(x), F.linear(torch.full((1, 32), 4.48), read.expand()))


def test_joined_parts_take_the_largest_input_scale() -> None:
    scale = torch.tensor(1.0)
    parts = [fp8(4, 8, scale, torch.tensor(0.1)), fp8(4, 8, scale, torch.tensor(0.3))]
    joined = concatenate(parts)
    assert isinstance(joined, PackedTensor)
    assert joined.input_scale == torch.tensor(0.3)
    alone = concatenate([parts[0], fp8(4, 8, scale)])
    assert isinstance(alone, PackedTensor)
    assert alone.input_scale is None


def test_hardware_file_and_caller_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not multiplies_fp8(torch.device("cpu"))
    x = torch.randn(3, 64)

    def rounded(layer: PackedLinear) -> bool:
        return not torch.equal(layer(x), F.linear(x, layer.weight.expand()))

    scaled, plain, odd = (PackedLinear(fp8(*s)) for s in ((48, 64, torch.ones(())), (48, 64, None), (47, 64, None)))
    assert not any(rounded(layer) for layer in (scaled, plain, odd))
    monkeypatch.setattr("mold_core.weights.layers.multiplies_fp8", lambda device: True)
    assert [rounded(layer) for layer in (scaled, plain, odd)] == [True, False, False]
    for layer in (scaled, plain, odd):
        layer.multiply_fp8 = True
    assert [rounded(layer) for layer in (scaled, plain, odd)] == [True, True, False]
    for layer in (scaled, plain, odd):
        layer.multiply_fp8 = False
    assert not any(rounded(layer) for layer in (scaled, plain, odd))


def test_casting_a_module_keeps_both_scales() -> None:
    weight = fp8(16, 16, torch.tensor(0.3), torch.tensor(0.7))
    holder = nn.ModuleDict({"layer": nn.Linear(16, 16, bias=False)})
    load_weights(holder, {"layer.weight": weight}, "x", dtype=torch.bfloat16)
    holder.to(torch.bfloat16)
    kept = holder["layer"].weight
    assert torch.equal(kept.scale, weight.scale)
    assert torch.equal(kept.input_scale, weight.input_scale)


def test_compiled_layers_multiply_fp8_where_plain_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    layer = PackedLinear(fp8(48, 64, torch.tensor(0.3)), torch.randn(48))
    x = torch.randn(3, 64)
    dense = F.linear(x, layer.weight.expand(), layer.bias)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), dense)  # this machine's processor does not
    torch._dynamo.reset()
    monkeypatch.setattr("mold_core.weights.layers.multiplies_fp8", lambda device: True)
    made = torch.compile(layer, backend="eager", fullgraph=True)(x)
    assert torch.equal(made, layer(x))
    assert not torch.allclose(made, dense, rtol=1e-3)
