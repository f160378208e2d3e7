"""The dtype to compute in: a 16-bit type that the hardware multiplies and that holds the weights, else fp32."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["fast_dtype", "overflows_fp16", "wide_dtype"]

# NVIDIA's GPUs multiply bf16 from Ampere on. On a T4, a V100 or a card of the 20 series, the only attention kernel for
# bf16 keeps all scores in memory.
_FIRST_WITH_BF16 = (8, 0)

_CPU_INFO = Path("/proc/cpuinfo")


def fast_dtype(device: str, capability: tuple[int, int] | None = None) -> torch.dtype:
    """Return bf16 if the hardware multiplies it; else fp16 on a GPU, fp32 on a CPU.

    `capability` is the compute capability of a CUDA device; None means unknown, and is treated as the newest.
    """
    if device.startswith("cuda") and capability is not None and tuple(capability) < _FIRST_WITH_BF16:
        return torch.float16
    return torch.bfloat16 if device != "cpu" or cpu_multiplies_bf16() else torch.float32


def wide_dtype(device: str, capability: tuple[int, int] | None = None) -> torch.dtype:
    """Return the same for a network whose values overflow fp16, which ends at 65504: fp32 instead of fp16."""
    fast = fast_dtype(device, capability)
    return torch.float32 if fast == torch.float16 else fast


@cache
def cpu_multiplies_bf16() -> bool:
    """Return whether the CPU has instructions that multiply bf16: AVX-512's, or AMX.

    Newer releases of torch report them. With older ones, Linux does; other systems return False, and fp32 is used.
    """
    report: Callable[[], Mapping[str, Any]] | None = getattr(torch.cpu, "get_capabilities", None)
    if report is not None:
        capabilities = report()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_tile"))
    try:
        return bool(re.search(r"^flags\b.*\b(?:avx512_bf16|amx_tile)\b", _CPU_INFO.read_text("utf-8"), re.MULTILINE))
    except OSError:
        return False


def overflows_fp16(tensors: Iterable[object]) -> bool:
    """Return whether any plain floating-point weight is too large for fp16."""
    largest = torch.finfo(torch.float16).max
    return any(
        bool(tensor.abs().amax() > largest)
        for tensor in tensors
        if isinstance(tensor, Tensor)
        and tensor.dtype in (torch.bfloat16, torch.float32, torch.float64)
        and tensor.numel()
    )
