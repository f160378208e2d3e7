"""Turn the stored blocks of OFT and BOFT files into stages of a rotation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mold_core.errors import CheckpointError
from mold_core.weights.lora_changes import Rotation, Stage
from mold_core.weights.lora_settings import LoraSettings

__all__ = ["butterfly_input_rotation", "butterfly_rotation", "output_rotation", "packed_rotation"]


def output_rotation(blocks: Tensor, name: str, rows: int, constraint: float, rescale: Tensor | None) -> Rotation:
    """Return the rotation of a layer's outputs that LyCORIS and kohya's trainer store as `blocks` [count, size, size].

    `constraint` bounds the norm of all blocks together; 0 means no bound.
    """
    if blocks.ndim != 3 or blocks.shape[1] != blocks.shape[2] or len(blocks) * blocks.shape[1] != rows:
        raise CheckpointError(f"{name} has the shape {list(blocks.shape)}, which does not fit {rows} rows")
    return Rotation(stages=(Stage(blocks=_cayley(blocks, constraint).transpose(1, 2)),), rescale=rescale)


def butterfly_rotation(blocks: Tensor, name: str, rows: int, constraint: float, rescale: Tensor | None) -> Rotation:
    """Return the rotation of a layer's outputs by LyCORIS' BOFT, stored as `blocks` [stages, count, size, size].

    Stage i groups numbers at a distance of 2^i times half a block.
    """
    stages, count, size, _ = blocks.shape
    if blocks.shape[2] != blocks.shape[3] or count * size != rows or size % 2 or rows % (2**stages * size // 2):
        raise CheckpointError(f"{name} has the shape {list(blocks.shape)}, which does not fit {rows} rows")
    rotated = _cayley(blocks, constraint)
    orders = (torch.arange(rows).view(-1, 2, 2**stage * size // 2).transpose(1, 2).flatten() for stage in range(stages))
    return Rotation(
        stages=tuple(Stage(blocks=block, order=order) for block, order in zip(rotated, orders, strict=True)),
        rescale=rescale,
    )


def packed_rotation(packed: Tensor, name: str, inputs: int, settings: LoraSettings | None) -> Rotation:
    """Return the rotation of a layer's inputs that PEFT stores as `packed` [count or 1, size (size - 1) / 2].

    Each row has the entries above the diagonal of a skew-symmetric block. PEFT computes the rotation with five terms of
    a Neumann series, unless its configuration differs.
    """
    count, numbers = packed.shape if packed.ndim == 2 else (0, 0)
    size = (1 + math.isqrt(1 + 8 * numbers)) // 2
    shared = count == 1 and size != inputs
    if size * (size - 1) // 2 != numbers or not count or (inputs % size if shared else count * size != inputs):
        raise CheckpointError(f"{name} has the shape {list(packed.shape)}, which does not fit {inputs} inputs")
    if settings is not None and settings.flag("coft"):
        raise CheckpointError(f"{name} is of a constrained rotation (coft), which mold does not compute")
    skew = packed.new_zeros(count, size, size)
    above = torch.triu_indices(size, size, 1)
    skew[:, above[0], above[1]] = packed
    skew = skew - skew.transpose(1, 2)
    if settings is not None and not settings.flag("use_cayley_neumann", default=True):
        blocks = _rotation_less_one(-skew)
    else:
        terms = 5 if settings is None else settings.count("num_cayley_neumann_terms", 5)
        blocks = _series_less_one(skew, terms)
    blocks = blocks.transpose(1, 2)
    return Rotation(stages=(Stage(blocks=blocks.repeat(inputs // size, 1, 1) if shared else blocks),), on_inputs=True)


def butterfly_input_rotation(blocks: Tensor, name: str, inputs: int, rescale: Tensor | None) -> Rotation:
    """Return the rotation of a layer's inputs by PEFT's BOFT, stored as `blocks` [stages, count, size, size].

    Stage i regroups half blocks within 2^i blocks: the even ones, then the odd ones. The last stage comes first,
    because PEFT rotates the weights.
    """
    if blocks.ndim != 4 or blocks.shape[2] != blocks.shape[3] or blocks.shape[1] * blocks.shape[2] != inputs:
        raise CheckpointError(f"{name} has the shape {list(blocks.shape)}, which does not fit {inputs} inputs")
    count, _, size, _ = blocks.shape
    if count > 1 and (size % 2 or inputs % (size * 2 ** (count - 1))):
        raise CheckpointError(f"{name} has the shape {list(blocks.shape)}, which does not fit {inputs} inputs")
    skew = (blocks - blocks.transpose(-1, -2)) / 2
    turned = _rotation_less_one(-skew).transpose(-1, -2)
    stages = []
    for stage in reversed(range(count)):
        order = None
        if count > 1:
            order = torch.arange(inputs).view(-1, 2**stage, 2, size // 2).transpose(1, 2).flatten().argsort()
        stages.append(Stage(blocks=turned[stage], order=order))
    return Rotation(stages=tuple(stages), rescale=rescale, on_inputs=True)


def _cayley(blocks: Tensor, constraint: float) -> Tensor:
    """Return (1 + Q) (1 - Q)⁻¹ - 1 for the skew-symmetric Q = B - Bᵀ of each block B."""
    skew = blocks - blocks.transpose(-1, -2)
    norm = skew.norm() + 1e-8
    if 0 < constraint < norm:
        skew = skew * (constraint / norm)
    return _rotation_less_one(skew)


def _rotation_less_one(skew: Tensor) -> Tensor:
    """Return (1 + Q) (1 - Q)⁻¹ - 1 = 2 Q (1 - Q)⁻¹."""
    one = torch.eye(skew.shape[-1])
    turned: Tensor = torch.linalg.solve(one - skew, 2 * skew, left=False)
    return turned


def _series_less_one(skew: Tensor, terms: int) -> Tensor:
    """Return 2 Q + 2 Q² + … + Qⁿ (the last term without the factor 2); for two terms only 2 Q."""
    if terms < 3:
        return 2 * skew if terms == 2 else torch.zeros_like(skew)
    last = min(max(terms - 1, 3), 32)
    total, power = 2 * skew, skew
    for exponent in range(2, last + 1):
        power = power @ skew
        total = total + (power if exponent == last else 2 * power)
    return total
