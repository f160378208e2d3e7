"""Packed layers compute what dense ones on the expanded weights compute, and keep the blocks as they are."""

from __future__ import annotations

import pytest
import torch
from gguf_files import QUANTISED, expanded, random_blocks
from torch import Tensor, nn
from torch.nn import functional as F

from mold_core import CheckpointError
from mold_core.weights import (
    PackedEmbedding,
    PackedLinear,
    PackedTensor,
    Scratch,
    concatenate,
    load_weights,
    type_named,
)


def packed(kind: str, rows: int, columns: int, seed: int = 0) -> tuple[PackedTensor, Tensor]:
    """Return random quantised weights, and what gguf-py expands them to."""
    blocks = random_blocks(kind, rows, columns, seed=seed)
    return PackedTensor(data=torch.from_numpy(blocks), type=type_named(kind), shape=(rows, columns)), expanded(
        blocks, kind
    )


def fp8(rows: int, columns: int, scale: Tensor | None = None) -> PackedTensor:
    numbers = torch.randn(rows, columns).to(torch.float8_e4m3fn)
    return PackedTensor(data=numbers.view(torch.uint8), type=type_named("F8_E4M3"), shape=(rows, columns), scale=scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", QUANTISED)
def test_a_packed_linear_layer_equals_the_dense_one(kind: str, dtype: torch.dtype) -> None:
    weight, dense = packed(kind, 48, 512)
    bias, x = torch.randn(48).to(dtype), torch.randn(2, 5, 512).to(dtype)
    layer = PackedLinear(weight, bias)
    expected = F.linear(x, dense.to(dtype), bias)
    assert torch.equal(layer(x), expected)
    assert torch.equal(layer.expand(dtype)(x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [None, (), (48, 1)])
def test_an_fp8_layer_equals_the_dense_one(shape: tuple[int, ...] | None, dtype: torch.dtype) -> None:
    weight = fp8(48, 40, None if shape is None else torch.rand(shape))
    x = torch.randn(5, 40).to(dtype)
    assert torch.equal(PackedLinear(weight)(x), F.linear(x, weight.expand(dtype)))


@pytest.mark.parametrize("scale", [None, torch.tensor(0.3), torch.rand(100, 1)])
def test_a_layer_larger_than_the_scratch_is_done_in_pieces_of_bounded_memory(scale: Tensor | None) -> None:
    weight = fp8(100, 64, scale)
    scratch = Scratch(numbers=64 * 7)
    x, bias = torch.randn(3, 64), torch.randn(100)
    torch.testing.assert_close(PackedLinear(weight, bias, scratch)(x), F.linear(x, weight.expand(), bias))
    assert scratch.rows(100, 64, x).shape == (7, 64)


def test_layers_share_their_scratch_without_mixing_weights() -> None:
    scratch = Scratch()
    pairs = [packed("Q4_0", rows, 64, seed) for seed, rows in enumerate((32, 64, 16))]
    x = torch.randn(2, 64)
    for weight, dense in pairs * 2:
        assert torch.equal(PackedLinear(weight, None, scratch)(x), F.linear(x, dense))


def test_a_layer_first_used_in_inference_mode_works_outside_of_it() -> None:
    weight, dense = packed("Q8_0", 8, 32)
    layer, x = PackedLinear(weight), torch.randn(2, 32)
    with torch.inference_mode():
        layer(x)
    assert torch.equal(layer(x), F.linear(x, dense))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_embedding_expands_the_rows_that_are_asked_for(dtype: torch.dtype) -> None:
    weight, dense = packed("Q5_1", 50, 64)
    ids = torch.tensor([[3, 49, 3], [0, 7, 12]])
    vectors = PackedEmbedding(weight, dtype)(ids)
    assert vectors.dtype == dtype
    assert torch.equal(vectors, dense.to(dtype)[ids])
    assert PackedEmbedding(weight, dtype)(ids[:, :0]).shape == (2, 0, 64)


def test_an_fp8_embedding_takes_the_scales_of_its_rows() -> None:
    weight = fp8(20, 12, torch.rand(20, 1))
    ids = torch.tensor([19, 0, 4])
    assert torch.equal(PackedEmbedding(weight, torch.float32)(ids), weight.expand()[ids])


def test_casting_a_module_leaves_what_is_packed_alone() -> None:
    weight = fp8(8, 16, torch.tensor(0.3))
    layer, x = PackedLinear(weight, torch.zeros(8)), torch.randn(2, 16).bfloat16()
    before = layer(x.float())
    layer.to(torch.bfloat16)
    assert torch.equal(layer(x), F.linear(x, weight.expand(torch.bfloat16), torch.zeros(8).bfloat16()))
    layer.to(torch.float32)
    assert torch.equal(layer(x.float()), before)


def test_a_packed_layer_counts_the_bytes_it_takes() -> None:
    weight, _ = packed("Q4_K", 16, 512)
    state = PackedLinear(weight, torch.zeros(16)).state_dict()
    assert sum(tensor.numel() * tensor.element_size() for tensor in state.values()) == 16 * 2 * 144 + 16 * 4
    assert PackedLinear(weight).to("meta").blocks.is_meta


# --- tensors ----------------------------------------------------------------------------------------------------------


def test_quantised_parts_are_joined_and_taken_apart_as_they_are() -> None:
    (first, dense), (second, more) = packed("Q6_K", 4, 256), packed("Q6_K", 2, 256, seed=1)
    joined = concatenate([first, second])
    assert isinstance(joined, PackedTensor)
    assert torch.equal(joined.expand(), torch.cat([dense, more]))
    assert torch.equal(concatenate([dense, more]), torch.cat([dense, more]))  # type: ignore[arg-type]
    assert [part.shape for part in joined.chunk(3)] == [(2, 256)] * 3
    assert torch.equal(torch.cat([part.expand() for part in joined.chunk(3)]), joined.expand())


def test_fp8_parts_keep_their_own_scales() -> None:
    parts = [fp8(4, 8, torch.tensor(0.5)), fp8(2, 8, torch.tensor(3.0)), fp8(2, 8)]
    joined = concatenate(parts)
    assert isinstance(joined, PackedTensor)
    assert torch.equal(joined.expand(), torch.cat([part.expand() for part in parts]))
    assert torch.equal(torch.cat([part.expand() for part in joined.chunk(2)]), joined.expand())


def test_parts_that_are_stored_in_different_ways_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"different ways \(Q6_K, Q4_K\)"):
        concatenate([packed("Q6_K", 2, 256)[0], packed("Q4_K", 2, 256)[0]])
    with pytest.raises(CheckpointError, match=r"different ways \(Q6_K, torch\.float32\)"):
        concatenate([packed("Q6_K", 2, 256)[0], torch.ones(2, 256)])


# --- filling ----------------------------------------------------------------------------------------------------------


class Network(nn.Module):
    """One of every kind of layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 32)
        self.inner = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 32, bias=False))
        self.norm = nn.LayerNorm(32)
        self.conv = nn.Conv1d(32, 32, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.conv(self.norm(self.inner(self.embed(ids))).transpose(1, 2))


def quantised_network() -> tuple[dict[str, Tensor | PackedTensor], Network]:
    """Return tensors for a Network, many of them quantised, and a dense one on the expanded weights."""
    dense = Network()
    tensors: dict[str, Tensor | PackedTensor] = dict(dense.state_dict())
    numbers = {}
    for name, kind in (("embed.weight", "Q8_0"), ("inner.0.weight", "Q4_0"), ("inner.2.weight", "IQ4_NL")):
        tensors[name], numbers[name] = packed(kind, *tensors[name].shape)
    conv = fp8(32, 32, torch.tensor(0.1))
    tensors["conv.weight"] = PackedTensor(data=conv.data, type=conv.type, shape=(32, 32, 1), scale=conv.scale)
    numbers["conv.weight"] = conv.expand()[:, :, None]
    bias = fp8(1, 64)
    tensors["inner.0.bias"] = PackedTensor(data=bias.data, type=bias.type, shape=(64,))
    numbers["inner.0.bias"] = bias.expand()[0]
    dense.load_state_dict(numbers, strict=False)
    return tensors, dense


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_filled_network_equals_the_dense_one(expand: bool, dtype: torch.dtype) -> None:
    tensors, dense = quantised_network()
    with torch.device("meta"):
        network = Network()
    load_weights(network, tensors, "x", dtype=dtype, expand=expand)
    ids = torch.tensor([[1, 9, 4]])
    assert torch.equal(network(ids), dense.to(dtype)(ids))
    kinds = [type(layer) for layer in (network.embed, network.inner[0], network.inner[2], network.conv)]
    linear, embedding = (nn.Linear, nn.Embedding) if expand else (PackedLinear, PackedEmbedding)
    assert kinds == [embedding, linear, linear, nn.Conv1d]
    assert not any(tensor.is_meta for tensor in network.state_dict().values())


def test_plain_tensors_are_used_without_a_copy() -> None:
    tensors, _ = quantised_network()
    with torch.device("meta"):
        network = Network()
    load_weights(network, tensors, "x", dtype=torch.float32)
    packed_layer, given = network.inner[0], tensors["inner.0.weight"]
    assert isinstance(packed_layer, PackedLinear)
    assert isinstance(given, PackedTensor)
    assert packed_layer.blocks.data_ptr() == given.data.data_ptr()
    assert network.norm.weight.data_ptr() == tensors["norm.weight"].data_ptr()  # type: ignore[union-attr]


def test_what_does_not_fit_is_said_and_the_network_stays_as_it_was() -> None:
    tensors, _ = quantised_network()
    del tensors["norm.bias"]
    tensors["more.weight"] = torch.ones(1)
    tensors["inner.0.weight"] = packed("Q8_0", 64, 64)[0]
    network = Network()
    with pytest.raises(CheckpointError) as caught:
        load_weights(network, tensors, "x.gguf")
    assert str(caught.value) == (
        "x.gguf does not match the model: it lacks norm.bias; it has more.weight, which the model does not; it has"
        " inner.0.weight of shape [64, 64] where [64, 32] is needed"
    )
    assert type(network.embed) is nn.Embedding
