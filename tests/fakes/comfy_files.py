"""Matrices quantised as ComfyUI's files store them: by comfy-kitchen where it can, else by its documented layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["FORMATS", "mark", "quantised", "reference", "write_state"]

Layer = dict[str, Tensor]


def mark(config: Mapping[str, Any]) -> Tensor:
    """Return a configuration as the tensor that stands beside a layer."""
    return torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)


def quantised(kind: str, weight: Tensor, group: int = 256) -> Layer:
    """Return the tensors of a layer, by what follows its name, in one of FORMATS."""
    return FORMATS[kind](weight, group)


def reference(kind: str, layer: Layer, group: int = 256) -> Tensor:
    """Return the weight in float32 that comfy-kitchen makes of a layer."""
    import comfy_kitchen as kitchen
    from comfy_kitchen.backends import eager
    from comfy_kitchen.backends.eager import quantization, w4a8_int8
    from comfy_kitchen.tensor.convrot_w4a4 import dequantize_convrot_w4a4_weight

    raw, scale = layer["weight"], layer.get("weight_scale")
    assert eager is not None
    match kind:
        case "int8" | "int8_tensor":
            return quantization.dequantize_int8_simple(raw, scale)
        case "int8_convrot":
            return quantization.dequantize_int8_convrot_weight(raw, scale, group)
        case "mxfp8":
            return quantization.dequantize_mxfp8(raw, scale, torch.float32)
        case "nvfp4":
            return quantization.dequantize_nvfp4(raw, layer["weight_scale_2"], scale, torch.float32)
        case "convrot_w4a4":
            return dequantize_convrot_w4a4_weight(raw, scale, group)
        case "w4a8" | "w4a8_uncoded" | "w6a8":
            return w4a8_int8.dequantize_w4a8_int8_weight(
                raw, layer["weight_s_rel"], layer["weight_s_channel"], layer.get("weight_codebook"),
                layer.get("weight_correction"), 16, group, torch.float32,
            )  # fmt: skip
        case "awq_w4a16":
            inputs = torch.eye(2 * raw.shape[1])
            return kitchen.gemv_awq_w4a16(inputs, raw, scale, layer["weight_zeros"]).t()
    raise ValueError(kind)


def write_state(state: Mapping[str, Tensor], kind: str, is_matrix: Callable[[str, Tensor], bool], group: int) -> Layer:
    """Return a state with its matrices in a format; those that the format does not take stay as they are."""
    written: Layer = {}
    for name, tensor in state.items():
        if not is_matrix(name, tensor):
            written[name] = tensor
            continue
        try:
            layer = quantised(kind, tensor, group)
        except ValueError:
            written[name] = tensor
            continue
        written.update({f"{name.removesuffix('weight')}{end}": part for end, part in layer.items()})
    return written


def _int8(weight: Tensor, group: int, **options: Any) -> Layer:
    from comfy_kitchen.tensor.int8 import TensorWiseINT8Layout

    raw, params = TensorWiseINT8Layout.quantize(weight.float(), convrot_groupsize=group, **options)
    config = {"format": "int8_tensorwise"}
    if options.get("convrot"):
        config |= {"convrot": True, "convrot_groupsize": group}
    return {"weight": raw, "weight_scale": params.scale, "comfy_quant": mark(config)}


def _mxfp8(weight: Tensor, group: int) -> Layer:
    from comfy_kitchen.backends.eager.quantization import quantize_mxfp8

    if weight.shape[1] % 32:
        raise ValueError(weight.shape)
    raw, scale = quantize_mxfp8(weight.float())
    return {"weight": raw, "weight_scale": scale, "comfy_quant": mark({"format": "mxfp8"})}


def _nvfp4(weight: Tensor, group: int) -> Layer:
    from comfy_kitchen.backends.eager.quantization import quantize_nvfp4

    if weight.shape[1] % 16:
        raise ValueError(weight.shape)
    largest = weight.float().abs().max() / (448 * 6)
    raw, scale = quantize_nvfp4(weight.float(), largest)
    marked = mark({"format": "nvfp4"})
    return {"weight": raw, "weight_scale": scale, "weight_scale_2": largest, "comfy_quant": marked}


def _convrot_w4a4(weight: Tensor, group: int) -> Layer:
    from comfy_kitchen.backends.eager.convrot_w4a4 import quantize_convrot_w4a4_weight

    raw, scale = quantize_convrot_w4a4_weight(weight.float(), group)
    config = {"format": "convrot_w4a4", "convrot_groupsize": group}
    return {"weight": raw, "weight_scale": scale, "comfy_quant": mark(config)}


def _w4a8(weight: Tensor, group: int, **options: Any) -> Layer:
    from comfy_kitchen.backends.eager.w4a8_int8 import quantize_w4a8_int8_weight

    raw, relative, channel, correction, codebook = quantize_w4a8_int8_weight(
        weight.float(), convrot_groupsize=group, **options
    )
    config = {"format": "asym_w4a8_int8", "params": {"group_size": 16, "convrot_groupsize": group}}
    found = {
        "weight": raw, "weight_s_rel": relative, "weight_s_channel": channel, "weight_correction": correction,
        "weight_codebook": codebook, "comfy_quant": mark(config),
    }  # fmt: skip
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _awq(weight: Tensor, group: int) -> Layer:
    rows, columns = weight.shape
    if columns % 64:
        raise ValueError(weight.shape)
    groups = weight.float().view(rows, -1, 64)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scales = (high - low) / 15
    codes = ((groups - low) / scales).round().clamp(0, 15)
    raw = _nibbles(codes.view(rows, columns))
    return {
        "weight": raw, "weight_scale": scales[..., 0].t().contiguous(),
        "weight_zeros": (low + 8 * scales)[..., 0].t().contiguous(),
        "comfy_quant": mark({"format": "awq_w4a16", "group_size": 64}),
    }  # fmt: skip


def _svdquant(weight: Tensor, group: int) -> Layer:
    rows, columns = weight.shape
    if columns % 64:
        raise ValueError(weight.shape)
    smooth = 0.5 + torch.rand(columns, generator=torch.Generator().manual_seed(3))
    left, values, right = torch.linalg.svd(weight.float(), full_matrices=False)
    up, down = left[:, :16] * values[:16], right[:16]
    groups = ((weight.float() - up @ down) * smooth).view(rows, -1, 64)
    scales = groups.abs().amax(-1, keepdim=True) / 7
    raw = _nibbles((groups / scales).round().clamp(-7, 7).view(rows, columns))
    return {
        "weight": raw, "weight_scale": scales[..., 0].t().contiguous(), "weight_proj_down": down.t().contiguous(),
        "weight_proj_up": up, "weight_smooth_factor": smooth, "comfy_quant": mark({"format": "svdquant_w4a4"}),
    }  # fmt: skip


def _nibbles(codes: Tensor) -> Tensor:
    whole = codes.to(torch.int32) & 15
    return (whole[:, 0::2] | whole[:, 1::2] << 4).to(torch.uint8).view(torch.int8)


# The levels of nf4 (Dettmers et al. 2023, arXiv 2305.14314, appendix E).
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def _nf4(weight: Tensor, group: int) -> Layer:
    rows, columns = weight.shape
    if rows * columns % 64 or columns % 2:
        raise ValueError(weight.shape)
    blocks = weight.float().reshape(-1, 64)
    largest = blocks.abs().amax(1).clamp(min=1e-12)
    codes = (blocks[..., None] / largest[:, None, None] - torch.tensor(NF4)).abs().argmin(-1).view(-1, 2)
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [rows, columns]}
    return {
        "weight": (codes[:, :1] << 4 | codes[:, 1:]).to(torch.uint8), "weight.absmax": largest,
        "weight.quant_map": torch.tensor(NF4), "weight.quant_state.bitsandbytes__nf4": mark(state),
    }  # fmt: skip


def _fp8(weight: Tensor, group: int) -> Layer:
    scale = weight.float().abs().max() / 448
    return {"weight": (weight.float() / scale).to(torch.float8_e4m3fn), "weight_scale": scale}


FORMATS: Mapping[str, Callable[[Tensor, int], Layer]] = {
    "fp8": _fp8,
    "int8": lambda weight, group: _int8(weight, group, per_channel=True),
    "int8_tensor": lambda weight, group: _int8(weight, group),
    "int8_convrot": lambda weight, group: _int8(weight, group, per_channel=True, convrot=True),
    "mxfp8": _mxfp8,
    "nvfp4": _nvfp4,
    "convrot_w4a4": _convrot_w4a4,
    "w4a8": _w4a8,
    "w4a8_uncoded": lambda weight, group: _w4a8(weight, group, symmetric=False, codebook=False),
    "w6a8": lambda weight, group: _w4a8(weight, group, bits=6),
    "awq_w4a16": _awq,
    "svdquant": _svdquant,
    "nf4": _nf4,
}
