"""Weights of bitsandbytes: nf4 and fp4 in blocks, and int8 rows (https://github.com/bitsandbytes-foundation/bitsandbytes).

Codes of 4 bits index `quant_map`; the high half of a byte comes first. `absmax` has the largest magnitude of each block
of the flattened matrix, and may be quantised itself ("double quantisation").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor

from mold_core.errors import CheckpointError
from mold_core.weights.grouped import Groups
from mold_core.weights.json_tensor import read_json
from mold_core.weights.packed import PackedTensor
from mold_core.weights.stored_layer import StoredLayer
from mold_core.weights.types import type_named

__all__ = ["STATE", "four_bit_weight", "int8_rows"]

# Published files have blocks of up to 4096 numbers.
_LARGEST_BLOCK = 2**16
_LARGEST_OFFSET = 1e30

STATE = "weight.quant_state.bitsandbytes__"


def int8_rows(layer: StoredLayer) -> PackedTensor:
    """Return int8 numbers scaled by SCB, the largest magnitude of each row."""
    raw = layer.weight("int8")
    largest = layer.numbers("SCB", layer.take("SCB"), (len(raw), 1), (len(raw),)).float()
    layer.find("weight_format")
    data = raw.contiguous().view(torch.uint8)
    return PackedTensor(data=data, type=type_named("INT8"), shape=tuple(raw.shape), scale=largest / 127)


def four_bit_weight(layer: StoredLayer, kind: str) -> PackedTensor:
    """Return a matrix of nf4 or fp4. Its state is stored under `STATE` with `kind` appended."""
    name = layer.name(f"{STATE}{kind}")
    state = read_json(name, layer.take(f"{STATE}{kind}"))
    shape, block = state.get("shape"), state.get("blocksize")
    if not isinstance(shape, list) or not _is_shape(shape) or not _is_block(block) or block % 2:
        raise CheckpointError(f"{name} has no shape and even blocksize of up to {_LARGEST_BLOCK}")
    rows, columns = shape
    stored = layer.tensors[layer.weight_name]
    if not isinstance(stored, Tensor) or stored.element_size() != 1 or 2 * stored.numel() != rows * columns:
        raise CheckpointError(f"{layer.weight_name} does not hold {rows} x {columns} numbers of 4 bits")
    levels = layer.numbers("weight.quant_map", layer.take("weight.quant_map"), (1, 16), (16,)).float()
    scales = _scales(layer, state, math.ceil(rows * columns / block))
    data = stored.contiguous().view(torch.uint8).reshape(rows, columns // 2)
    if columns % block:  # blocks span rows: one scale per number costs no more than a small matrix
        block = math.gcd(block, columns)
        scales = scales.repeat_interleave(state["blocksize"] // block)[: rows * columns // block]
    groups = Groups(scales=scales.reshape(rows, columns // block), levels=levels)
    return PackedTensor(data=data, type=type_named("CODES4_HIGH"), shape=(rows, columns), groups=groups)


def _is_shape(shape: list[Any]) -> bool:
    return len(shape) == 2 and all(type(size) is int and 0 < size < 2**31 for size in shape) and shape[1] % 2 == 0


def _is_block(size: object) -> TypeGuard[int]:
    return type(size) is int and 2 <= size <= _LARGEST_BLOCK


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and abs(value) < _LARGEST_OFFSET


def _scales(layer: StoredLayer, state: Mapping[str, Any], count: int) -> Tensor:
    """Return the largest magnitude of each block, float32 [count]."""
    stored = layer.take("weight.absmax")
    if stored.is_floating_point():
        return layer.numbers("weight.absmax", stored, (count,)).float()
    size, offset = state.get("nested_blocksize"), state.get("nested_offset", 0.0)
    if stored.dtype != torch.uint8 or tuple(stored.shape) != (count,) or not _is_block(size) or not _is_number(offset):
        raise CheckpointError(
            f"{layer.name('weight.absmax')} must hold {count} bytes, one for each block, and come with a"
            f" nested_blocksize of up to {_LARGEST_BLOCK} and a nested_offset"
        )
    levels = layer.numbers("weight.nested_quant_map", layer.take("weight.nested_quant_map"), (256,)).float()
    largest = layer.take("weight.nested_absmax")
    largest = layer.numbers("weight.nested_absmax", largest, (math.ceil(count / size),)).float()
    return levels[stored.long()] * largest.repeat_interleave(size)[:count] + offset
