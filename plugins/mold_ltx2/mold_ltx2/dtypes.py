"""The dtype that each component computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mold_core.weights import wide_dtype

if TYPE_CHECKING:
    from mold_core import ModelSpec

__all__ = ["dtype_of"]

# Rounding to bf16 is audible.
_EXACT = ("vocoder",)


def dtype_of(component: str, spec: ModelSpec, device: str, capability: tuple[int, int] | None = None) -> torch.dtype:
    """Return the dtype of a component: ``options.dtype``, else bf16 if the hardware multiplies it, else fp32.

    The vocoder's is always fp32. Values of Gemma 3 and LTX-2 overflow fp16. `capability` is that of a CUDA device.
    """
    if component in _EXACT:
        return torch.float32
    if "dtype" in spec.options:
        named: torch.dtype = getattr(torch, spec.options["dtype"])
        return named
    return wide_dtype(device, capability)
