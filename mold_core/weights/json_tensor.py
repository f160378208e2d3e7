"""JSON in a tensor of bytes, in which files store the configuration of a layer."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from mold_core.errors import CheckpointError

__all__ = ["read_json"]

_LONGEST = 65_536


def read_json(name: str, tensor: object) -> dict[str, Any]:
    """Return the object in a tensor of bytes. Raises CheckpointError, naming the tensor, for anything else."""
    if not isinstance(tensor, Tensor) or tensor.dtype not in (torch.uint8, torch.int8) or tensor.numel() > _LONGEST:
        raise CheckpointError(f"{name} is not a tensor of bytes with JSON")
    try:
        value = json.loads(tensor.contiguous().view(torch.uint8).numpy().tobytes().rstrip(b"\0"))
    except (ValueError, RecursionError):
        raise CheckpointError(f"{name} does not hold valid JSON") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} does not hold a JSON object")
    return value
