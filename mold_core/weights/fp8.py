"""Matrix products in fp8 on hardware that supports them: 8-bit numbers times scales, accumulated in fp32.

The scheme follows "FP8 Formats for Deep Learning" (Micikevicius et al. 2022, arXiv 2209.05433): one scale for the
weights, and one for the input, which is stored in the file or computed from the input's largest magnitude.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = ["multiplies_fp8", "scaled_linear"]

_LARGEST = 448.0  # of e4m3
_HALVES = (torch.float16, torch.bfloat16)


def multiplies_fp8(device: torch.device) -> bool:
    """Return whether a device multiplies fp8 faster than bf16: NVIDIA's Ada, Hopper or later (capability 8.9)."""
    return device.type == "cuda" and torch.version.cuda is not None and _capability(device) >= (8, 9)


# Does the same as torch.compiler.assume_constant_result without importing the compiler. Compiled layers call it once.
multiplies_fp8._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.lru_cache(maxsize=16)
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def scaled_linear(
    x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None, input_scale: Tensor | None = None
) -> Tensor:
    """Return x [..., in] times weight [out, in], e4m3, in the dtype of x; the numbers of x are rounded to e4m3.

    `scale`, fp32 [] or [out, 1], multiplies the weights, and `input_scale`, fp32 [], the rounded input. Without
    `input_scale` the scale maps the largest magnitude of x to the largest of e4m3. With 3 mantissa bits the mean error
    of x, and about that of the result, is 1.8 %. Sums are fp32; the fast products of GPUs keep about 14 bits of partial
    sums.
    """
    rows = x.reshape(-1, x.shape[-1])
    if input_scale is None:
        largest = torch.linalg.vector_norm(rows, float("inf"), dtype=torch.float32)
        input_scale = largest.clamp(min=1e-12) / _LARGEST
        rounded = (rows.float() / input_scale).to(torch.float8_e4m3fn)  # the scale makes x fit
    else:
        rounded = (rows.float() / input_scale).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
    per_row = scale is not None and scale.ndim > 0
    inside = bias is not None and not per_row and x.dtype in _HALVES  # the product can add the bias
    out = torch._scaled_mm(
        rounded,
        weight.view(torch.float8_e4m3fn).t(),
        scale_a=input_scale,
        scale_b=torch.ones((), device=x.device) if scale is None or per_row else scale,
        bias=bias.to(x.dtype) if inside and bias is not None else None,
        out_dtype=torch.float32 if per_row else x.dtype,
        use_fast_accum=x.is_cuda,  # PERF: without it, Hopper and Ada multiply at half their rate
    )
    if per_row:
        out = (out * scale.view(-1)).to(x.dtype)  # type: ignore[union-attr]
    if bias is not None and not inside:
        out = out + bias.to(x.dtype)
    return out.view(*x.shape[:-1], out.shape[-1])
