"""Convert bytes to tensors and back."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

__all__ = ["bytes_of", "tensor_of"]


def bytes_of(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor on the CPU, in its order. Needs no numpy."""
    tensor = tensor.contiguous()
    return ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size())


def tensor_of(data: bytes, height: int, width: int, channels: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    """Return bytes as a writable tensor [height, width, channels]."""
    return torch.frombuffer(bytearray(data), dtype=dtype).view(height, width, channels)
