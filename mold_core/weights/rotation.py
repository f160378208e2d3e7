"""ConvRot: rotations along the inputs of a layer, which spread outliers so that few bits represent a row.

In each group of 4^n inputs the rotation is the n-fold Kronecker power of a symmetric, orthogonal 4 x 4 matrix, so it is
its own inverse: (x R) (W R)^T = x W^T.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = ["is_rotation", "largest_rotation", "rotated"]

_LARGEST = 4**8


def is_rotation(group: int) -> bool:
    """Return whether a group size is a supported power of 4."""
    return 4 <= group <= _LARGEST and group & (group - 1) == 0 and group.bit_length() % 2 == 1


def largest_rotation(columns: int, limit: int = 256) -> int:
    """Return the largest group size that divides a number of columns; 0 if none does."""
    group = limit
    while group >= 4 and columns % group:
        group //= 4
    return group if group >= 4 else 0


def rotated(x: Tensor, group: int) -> Tensor:
    """Return x [..., columns] rotated in groups of columns. It is computed in float32 and rounded to the dtype of x."""
    matrix = _matrix(group, x.device)
    groups = x.float().reshape(*x.shape[:-1], x.shape[-1] // group, group)
    return (groups @ matrix).reshape(x.shape).to(x.dtype)


def _matrix(group: int, device: torch.device) -> Tensor:
    """Return the rotation of a group, [group, group]. Compiled code treats it as a constant."""
    return _cached_matrix(group, device)


# Does the same as torch.compiler.assume_constant_result without importing the compiler.
_matrix._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.lru_cache(maxsize=32)
def _cached_matrix(group: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        four = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=torch.float32) / 2
        matrix = four
        while len(matrix) < group:
            matrix = torch.kron(matrix, four)
        return matrix.to(device)
