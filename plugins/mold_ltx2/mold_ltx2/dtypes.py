"""What each part of a model computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mold_core.weights import wide_dtype

if TYPE_CHECKING:
    from mold_core import ModelSpec

__all__ = ["dtype_of"]

# Rounding to bf16 is heard.
_EXACT = ("vocoder",)


def dtype_of(part: str, spec: ModelSpec, device: str, capability: tuple[int, int] | None = None) -> torch.dtype:
    """Return the dtype of a part: what ``options.dtype`` says, else bf16 where the hardware multiplies it, else fp32.

    The vocoder's is always fp32. Gemma 3 and LTX-2 outgrow fp16. `capability` is that of a CUDA device.
    """
    if part in _EXACT:
        return torch.float32
    if "dtype" in spec.options:
        named: torch.dtype = getattr(torch, spec.options["dtype"])
        return named
    return wide_dtype(device, capability)
