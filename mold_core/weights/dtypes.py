"""What to compute in: the half type that the hardware multiplies and the file fits, else fp32."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["fast_dtype", "overflows_fp16", "wide_dtype"]

# NVIDIA's GPUs multiply bf16 from Ampere on. On a T4, a V100 or a card of the 20 series attention in bf16 has no kernel
# but the one that keeps all scores in memory.
_FIRST_WITH_BF16 = (8, 0)


def fast_dtype(device: str, capability: tuple[int, int] | None = None) -> torch.dtype:
    """Return bf16 where the hardware multiplies it; else fp16 on a GPU, fp32 on a CPU.

    `capability` is the compute capability of a CUDA device; None: not known, as good as the newest.
    """
    if device.startswith("cuda") and capability is not None and tuple(capability) < _FIRST_WITH_BF16:
        return torch.float16
    if device != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32


def wide_dtype(device: str, capability: tuple[int, int] | None = None) -> torch.dtype:
    """Return the same for a network whose numbers outgrow fp16, which ends at 65504: fp32 takes the place of fp16."""
    fast = fast_dtype(device, capability)
    return torch.float32 if fast == torch.float16 else fast


def overflows_fp16(tensors: Iterable[object]) -> bool:
    """Say whether a number of plain floating-point weights is too large for fp16."""
    largest = torch.finfo(torch.float16).max
    return any(
        bool(tensor.abs().amax() > largest)
        for tensor in tensors
        if isinstance(tensor, Tensor)
        and tensor.dtype in (torch.bfloat16, torch.float32, torch.float64)
        and tensor.numel()
    )
