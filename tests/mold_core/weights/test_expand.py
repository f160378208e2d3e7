"""Expanded blocks are gguf-py's numbers to the last bit, whatever is in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf_files import HALVES, QUANTISED, expanded, random_blocks
from torch import Tensor

from mold_core import CheckpointError
from mold_core.weights import dequantise, type_named
from mold_core.weights.expand import expand_into

# fp16: zeros, the smallest and largest denormals, the smallest normal, one, the largest, infinities and no number.
ODD_HALVES = (0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00)


def adversarial_blocks(kind: str) -> np.ndarray:
    """Return blocks of zeros, of ones, of alternating bits, and of anything with each pair of odd scales."""
    size = type_named(kind).block_bytes
    filled = [np.full((1, size), value, dtype=np.uint8) for value in (0x00, 0xFF, 0x55, 0xAA, 0x80, 0x7F)]
    odd = np.random.default_rng(1).integers(0, 256, (len(ODD_HALVES) ** 2, size), dtype=np.uint8)
    for row, (first, second) in enumerate((a, b) for a in ODD_HALVES for b in ODD_HALVES):
        for place, value in zip(HALVES[kind], (first, second), strict=False):
            odd[row, place : place + 2] = np.frombuffer(value.to_bytes(2, "little"), dtype=np.uint8)
    return np.concatenate([*filled, odd])


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Say whether two tensors are the same to the last bit; what is no number may be so in any way."""
    kind = torch.int32 if left.dtype == torch.float32 else torch.int16
    equal = left.view(kind) == right.view(kind)
    return left.dtype == right.dtype and bool((equal | (left.isnan() & right.isnan())).all())


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_bytes_expand_as_in_gguf_py(kind: str, dtype: torch.dtype) -> None:
    stored = type_named(kind)
    blocks = np.random.default_rng(0).integers(0, 256, (3000, stored.block_bytes), dtype=np.uint8)
    got = dequantise(torch.from_numpy(blocks), stored, dtype)
    assert same_bits(got, expanded(blocks, kind).to(dtype))


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adversarial_blocks_expand_as_in_gguf_py(kind: str, dtype: torch.dtype) -> None:
    blocks = adversarial_blocks(kind)
    got = dequantise(torch.from_numpy(blocks), type_named(kind), dtype)
    assert same_bits(got, expanded(blocks, kind).to(dtype))


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_tensor_of_many_pieces_expands_as_in_gguf_py(kind: str) -> None:
    rows = random_blocks(kind, 700, 768)  # more than the quarter of a million numbers that are done at a time
    out = torch.empty(700, 768, dtype=torch.bfloat16)
    expand_into(out, torch.from_numpy(rows), type_named(kind))
    assert same_bits(out, expanded(rows, kind).bfloat16())


@pytest.mark.parametrize(("kind", "dtype"), [("F8_E4M3", torch.float8_e4m3fn), ("F8_E5M2", torch.float8_e5m2)])
def test_every_fp8_number_expands_exactly(kind: str, dtype: torch.dtype) -> None:
    every = torch.arange(256, dtype=torch.uint8)[:, None]
    assert same_bits(dequantise(every, type_named(kind)), every.view(dtype).float())


def test_a_scale_is_multiplied_before_rounding() -> None:
    rows = torch.arange(0, 120, dtype=torch.uint8).view(4, 30)
    scale = torch.tensor([[0.3], [1.7], [1e-3], [5.0]])
    out = torch.empty(4, 30, dtype=torch.bfloat16)
    expand_into(out, rows, type_named("F8_E4M3"), scale)
    assert same_bits(out, (rows.view(torch.float8_e4m3fn).float() * scale).bfloat16())


def test_a_plain_type_has_no_blocks_to_expand() -> None:
    with pytest.raises(CheckpointError, match="F16 is no quantised type"):
        dequantise(torch.zeros(1, 2, dtype=torch.uint8), type_named("F16"))
