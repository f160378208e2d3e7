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


@functools.lru_cache(maxsize=16)
def multiplies_fp8(device: torch.device) -> bool:
    """Say whether a device multiplies fp8 faster than bf16: NVIDIA's since Ada and Hopper (compute capability 8.9)."""
    return (
        device.type == "cuda" and torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (8, 9)
    )


def scaled_linear(
    x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None, input_scale: Tensor | None = None
) -> Tensor:
    """Return x [..., in] times weight [out, in], e4m3, in the dtype of x; the numbers of x are rounded to e4m3.

    `scale`, fp32 [] or [out, 1], is what the weights, and `input_scale`, fp32 [], what the rounded input is to be
    multiplied by; without the latter it is chosen so that the largest number of x just fits. An x of 3 mantissa bits is
    off by 1.8 % in the mean, which is what the result is off by, about; sums are not rounded.
    """
    rows = x.reshape(-1, x.shape[-1])
    if input_scale is None:
        input_scale = rows.abs().amax().float().clamp(min=1e-12) / _LARGEST
    rounded = (rows.float() / input_scale).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
    whole = torch.ones((), device=x.device) if scale is None or scale.ndim else scale
    per_row = scale is not None and scale.ndim > 0
    out = torch._scaled_mm(
        rounded,
        weight.view(torch.float8_e4m3fn).t(),
        scale_a=input_scale,
        scale_b=whole,
        out_dtype=torch.float32 if per_row else x.dtype,
    )
    if per_row:
        out = (out * scale.view(-1)).to(x.dtype)  # type: ignore[union-attr]
    if bias is not None:
        out = out + bias.to(x.dtype)
    return out.view(*x.shape[:-1], out.shape[-1])
