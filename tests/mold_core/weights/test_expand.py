"""Expanded blocks are gguf-py's numbers to the last bit, whatever is in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf_files import QUANTISED, adversarial_blocks, expanded, random_blocks, same_bits

from mold_core import CheckpointError
from mold_core.weights import dequantize, type_named
from mold_core.weights.dequantization import dequantize_into


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_bytes_expand_as_in_gguf_py(kind: str, dtype: torch.dtype) -> None:
    stored = type_named(kind)
    blocks = np.random.default_rng(0).integers(0, 256, (3000, stored.block_bytes), dtype=np.uint8)
    got = dequantize(torch.from_numpy(blocks), stored, dtype)
    assert same_bits(got, expanded(blocks, kind).to(dtype))


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adversarial_blocks_expand_as_in_gguf_py(kind: str, dtype: torch.dtype) -> None:
    blocks = adversarial_blocks(kind)
    got = dequantize(torch.from_numpy(blocks), type_named(kind), dtype)
    assert same_bits(got, expanded(blocks, kind).to(dtype))


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_tensor_of_many_pieces_expands_as_in_gguf_py(kind: str) -> None:
    rows = random_blocks(kind, 700, 768)  # more than the quarter of a million numbers that are done at a time
    out = torch.empty(700, 768, dtype=torch.bfloat16)
    dequantize_into(out, torch.from_numpy(rows), type_named(kind))
    assert same_bits(out, expanded(rows, kind).bfloat16())


@pytest.mark.parametrize(("kind", "dtype"), [("F8_E4M3", torch.float8_e4m3fn), ("F8_E5M2", torch.float8_e5m2)])
def test_every_fp8_number_expands_exactly(kind: str, dtype: torch.dtype) -> None:
    every = torch.arange(256, dtype=torch.uint8)[:, None]
    assert same_bits(dequantize(every, type_named(kind)), every.view(dtype).float())


def test_a_scale_is_multiplied_before_rounding() -> None:
    rows = torch.arange(0, 120, dtype=torch.uint8).view(4, 30)
    scale = torch.tensor([[0.3], [1.7], [1e-3], [5.0]])
    out = torch.empty(4, 30, dtype=torch.bfloat16)
    dequantize_into(out, rows, type_named("F8_E4M3"), scale)
    assert same_bits(out, (rows.view(torch.float8_e4m3fn).float() * scale).bfloat16())


def test_a_plain_type_has_no_blocks_to_expand() -> None:
    with pytest.raises(CheckpointError, match="F16 is not a quantised type"):
        dequantize(torch.zeros(1, 2, dtype=torch.uint8), type_named("F16"))
