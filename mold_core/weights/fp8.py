"""Matrix products in fp8, where the hardware has them: numbers of 8 bits times scales, summed up in fp32.

The scheme is that of "FP8 Formats for Deep Learning" (Micikevicius et al. 2022, arXiv 2209.05433): one scale for the
weights, one for the input, from the file or from the input's largest number.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = ["multiplies_fp8", "scaled_linear"]

_LARGEST = 448.0  # of e4m3
_HALVES = (torch.float16, torch.bfloat16)


def multiplies_fp8(device: torch.device) -> bool:
    """Say whether a device multiplies fp8 faster than bf16: NVIDIA's since Ada and Hopper (compute capability 8.9)."""
    return device.type == "cuda" and torch.version.cuda is not None and _capability(device) >= (8, 9)


# What torch.compiler.assume_constant_result does, which would import the whole compiler here: compiled layers ask once.
multiplies_fp8._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.lru_cache(maxsize=16)
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def scaled_linear(
    x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None, input_scale: Tensor | None = None
) -> Tensor:
    """Return x [..., in] times weight [out, in], e4m3, in the dtype of x; the numbers of x are rounded to e4m3.

    `scale`, fp32 [] or [out, 1], is what the weights, and `input_scale`, fp32 [], what the rounded input is to be
    multiplied by; without the latter it is chosen so that the largest number of x just fits. An x of 3 mantissa bits is
    off by 1.8 % in the mean, which is what the result is off by, about. Sums are of fp32; fast products of GPUs
    keep about 14 bits of what they have summed so far.
    """
    rows = x.reshape(-1, x.shape[-1])
    if input_scale is None:
        largest = torch.linalg.vector_norm(rows, float("inf"), dtype=torch.float32)
        input_scale = largest.clamp(min=1e-12) / _LARGEST
        rounded = (rows.float() / input_scale).to(torch.float8_e4m3fn)  # nothing is larger than the largest number
    else:
        rounded = (rows.float() / input_scale).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
    per_row = scale is not None and scale.ndim > 0
    inside = bias is not None and not per_row and x.dtype in _HALVES  # what the product adds itself
    out = torch._scaled_mm(
        rounded,
        weight.view(torch.float8_e4m3fn).t(),
        scale_a=input_scale,
        scale_b=torch.ones((), device=x.device) if scale is None or per_row else scale,
        bias=bias.to(x.dtype) if inside and bias is not None else None,
        out_dtype=torch.float32 if per_row else x.dtype,
        use_fast_accum=x.is_cuda,  # PERF: Hopper and Ada multiply at half their rate without
    )
    if per_row:
        out = (out * scale.view(-1)).to(x.dtype)  # type: ignore[union-attr]
    if bias is not None and not inside:
        out = out + bias.to(x.dtype)
    return out.view(*x.shape[:-1], out.shape[-1])
