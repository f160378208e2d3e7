"""Layers of int8 rows: near what the file says, one memory, few rows and many alike."""

from __future__ import annotations

import pytest
import torch
from gguf_files import random_blocks
from torch import nn
from torch.nn import functional as F

from mold_core.weights import Int8Embedding, Int8Linear, PackedEmbedding, PackedLinear, PackedTensor, Scratch, to_int8
from mold_core.weights.int8 import Int8Rows
from mold_core.weights.types import type_named

COLUMNS = 256


def packed(kind: str, rows: int = 96, seed: int = 0) -> PackedTensor:
    blocks = torch.from_numpy(random_blocks(kind, rows, COLUMNS, seed=seed))
    return PackedTensor(data=blocks, type=type_named(kind), shape=(rows, COLUMNS))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q6_K", "Q4_K"])
def test_rows_are_rounded_to_a_254th_of_their_largest_number(kind: str) -> None:
    weight = packed(kind)
    exact = weight.expand()
    largest = exact.abs().amax(1, keepdim=True)
    # Half a step, and what the scale lost to bf16 for numbers at the end of the range.
    assert ((Int8Rows.of(weight).expand() - exact).abs() <= largest * (0.5 / 127 + 2**-8)).all()


def test_rows_with_one_scale_are_kept_exactly() -> None:
    numbers = torch.randint(-127, 128, (8, COLUMNS), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    numbers[:, ::32] = 127
    scales = torch.full((8, 8, 2), 0, dtype=torch.uint8)
    scales[:] = torch.tensor([0.0078125], dtype=torch.float16).view(torch.uint8)
    blocks = torch.cat([scales, numbers.view(torch.uint8).view(8, 8, 32)], dim=2).view(8, -1)
    weight = PackedTensor(data=blocks, type=type_named("Q8_0"), shape=(8, COLUMNS))
    assert torch.equal(Int8Rows.of(weight).expand(), weight.expand())


def test_a_row_of_zeros_stays_one() -> None:
    weight = PackedTensor(data=torch.zeros((4, 8 * 34), dtype=torch.uint8), type=type_named("Q8_0"), shape=(4, COLUMNS))
    assert torch.equal(Int8Rows.of(weight).expand(), torch.zeros(4, COLUMNS))


@pytest.mark.parametrize("count", [1, 4, 8, 9, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_rows_and_many_are_multiplied_alike(count: int, dtype: torch.dtype) -> None:
    torch.manual_seed(count)
    layer = Int8Linear(Int8Rows.of(packed("Q8_0")), torch.randn(96), Scratch(numbers=40 * COLUMNS))
    x = torch.randn(2, count, COLUMNS).to(dtype)[:1]
    assert layer(x).dtype == dtype
    wanted = F.linear(x.float(), layer.rows.expand(), layer.bias)
    assert layer(x).shape == wanted.shape
    assert ((layer(x).float() - wanted).abs().max() / wanted.std()) < 0.05


def test_packed_layers_of_a_module_are_replaced_and_others_kept() -> None:
    network = nn.Sequential()
    network.append(PackedEmbedding(packed("Q8_0"), torch.bfloat16))
    network.append(PackedLinear(packed("Q4_0", rows=COLUMNS, seed=1), torch.ones(COLUMNS).bfloat16()))
    network.append(nn.LayerNorm(COLUMNS))
    ids = torch.tensor([[3, 5]])
    before = network[:2](ids)
    to_int8(network, torch.bfloat16)
    assert [type(layer) for layer in network] == [Int8Embedding, Int8Linear, nn.LayerNorm]
    assert network[:2](ids).dtype == torch.bfloat16
    assert F.cosine_similarity(network[:2](ids).flatten().float(), before.flatten().float(), dim=0) > 0.999
    assert network[0].rows.numbers.dtype == torch.int8
