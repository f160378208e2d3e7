"""What each part of a model computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from mold_core import ModelSpec

__all__ = ["dtype_of"]

# Rounding to bf16 is heard.
_EXACT = ("vocoder",)


def dtype_of(part: str, spec: ModelSpec, device: str) -> torch.dtype:
    """Return the dtype of a part: what ``options.dtype`` says, else bf16 where the hardware multiplies it, else fp32.

    The vocoder's is always fp32.
    """
    if part in _EXACT:
        return torch.float32
    if "dtype" in spec.options:
        named: torch.dtype = getattr(torch, spec.options["dtype"])
        return named
    if device != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32
