"""Quantised layers of ComfyUI's files, each marked by a tensor `comfy_quant` that holds JSON: {"format": …}.

The layouts are those of comfy-kitchen (https://github.com/Comfy-Org/comfy-kitchen). Weights stay as stored; small
tensors that belong to them are reordered to match the weights' rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mold_core.errors import CheckpointError
from mold_core.weights.grouped import Groups
from mold_core.weights.packed import LowRank, PackedTensor
from mold_core.weights.rotation import is_rotation
from mold_core.weights.stored_layer import StoredLayer
from mold_core.weights.types import type_named

__all__ = ["COMFY_FORMATS", "SCALES", "fp8_weight", "int8_weight"]

SCALES = ("weight_scale", "scale_weight")
INPUT_SCALES = ("input_scale", "scale_input")

_SIGNED = (*range(8), *range(-8, 0))
_CENTRED = tuple(range(-8, 8))
_E2M1 = (0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6)
# SVDQuant adds this to the inputs of layers after a GELU, to make them non-negative (nunchaku's SHIFT_GELU).
_GELU_SHIFT = 0.171875


def fp8_weight(layer: StoredLayer, weight: PackedTensor) -> PackedTensor:
    """Return an fp8 weight with its scale and its input scale, if it has them."""
    import attrs

    rows = len(weight.data)
    for kind in SCALES:
        scale = layer.find(kind)
        if scale is not None:
            weight = attrs.evolve(weight, scale=_scale_of_rows(layer, kind, scale, rows))
    for kind in INPUT_SCALES:
        scale = layer.find(kind)
        if scale is not None and scale.is_floating_point() and scale.numel() == 1:
            weight = attrs.evolve(weight, input_scale=scale.float().reshape(()).clone())
    return weight


def int8_weight(layer: StoredLayer) -> PackedTensor:
    """Return int8 numbers with one scale per row or one in all; "convrot" weights are rotated along the columns."""
    raw = layer.weight("int8")
    scale = _scale_of_rows(layer, SCALES[0], layer.take(*SCALES), len(raw))
    rotation = _rotation(layer, raw.shape[1]) if layer.flag("convrot") else 0
    return _packed("INT8", raw, raw.shape[1], scale=scale, rotation=rotation)


def _convrot_w4a4(layer: StoredLayer) -> PackedTensor:
    raw = layer.weight("int8", "uint8")
    columns = 2 * raw.shape[1]
    scale = _scale_of_rows(layer, SCALES[0], layer.take(*SCALES), len(raw))
    groups = Groups(levels=_levels(_SIGNED))
    return _packed("CODES4", raw, columns, scale=scale, groups=groups, rotation=_rotation(layer, columns))


def _w4a8(layer: StoredLayer) -> PackedTensor:
    """Return codes of 4 or 6 bits. They index a codebook; an entry times the group's scale is an 8-bit integer."""
    raw = layer.weight("int8", "uint8")
    relative = layer.take("weight_s_rel")
    if relative.ndim != 2 or len(relative) != len(raw):
        raise CheckpointError(f"{layer.name('weight_s_rel')} must have {len(raw)} rows, one for each of the weight")
    if relative.dtype in (torch.uint8, torch.int8):
        relative = relative.view(torch.float8_e4m3fn)
    count = relative.shape[1]
    columns = count * layer.option("group_size", 16)
    bits = raw.shape[1] * 8 // columns if columns else 0
    if bits not in (4, 6) or bits * columns != 8 * raw.shape[1]:
        raise CheckpointError(
            f"{layer.name('weight_s_rel')} has {count} groups, which do not fit the {raw.shape[1]} bytes of a row"
        )
    codebook, correction = layer.find("weight_codebook"), layer.find("weight_correction")
    levels = _levels(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))
    if codebook is not None:
        levels = layer.numbers("weight_codebook", codebook, (1, 2**bits), (2**bits,)).float()
    if correction is not None:
        correction = layer.numbers("weight_correction", correction, (count, len(raw))).t().contiguous()
    groups = Groups(scales=relative.clone(), levels=levels, offsets=correction, rounded=True)
    scale = layer.numbers("weight_s_channel", layer.take("weight_s_channel"), (len(raw), 1), (len(raw),)).float()
    kind = "CODES4" if bits == 4 else "CODES6"
    return _packed(kind, raw, columns, scale=scale, groups=groups, rotation=_rotation(layer, columns))


def _mxfp8(layer: StoredLayer) -> PackedTensor:
    raw = layer.weight("float8_e4m3fn", "float8_e5m2")
    scales = _unblocked(layer, _bytes(layer, layer.take(*SCALES)), len(raw), raw.shape[1], 32)
    kind = "F8_E4M3" if raw.dtype == torch.float8_e4m3fn else "F8_E5M2"
    return _packed(kind, raw, raw.shape[1], groups=Groups(scales=scales))


def _nvfp4(layer: StoredLayer) -> PackedTensor:
    raw = layer.weight("uint8", "int8")
    columns = 2 * raw.shape[1]
    scales = _unblocked(layer, _bytes(layer, layer.take(*SCALES)), len(raw), columns, 16).view(torch.float8_e4m3fn)
    scale = layer.numbers("weight_scale_2", layer.take("weight_scale_2"), (), (1,)).float()
    inputs = layer.find("pre_quant_scale")
    if inputs is not None:
        inputs = layer.numbers("pre_quant_scale", inputs, (columns,)).float()
    groups = Groups(scales=scales, levels=_levels(_E2M1))
    return _packed("CODES4_HIGH", raw, columns, scale=scale, groups=groups, column_scale=inputs)


def _awq_w4a16(layer: StoredLayer) -> PackedTensor:
    raw = layer.weight("int8", "uint8")
    columns = 2 * raw.shape[1]
    count = _group_count(layer, columns, layer.option("group_size", 64))
    scales = _transposed(layer, SCALES[0], layer.take(*SCALES), count, len(raw))
    offsets = _transposed(layer, "weight_zeros", layer.take("weight_zeros", "weight_zero"), count, len(raw))
    groups = Groups(scales=scales, levels=_levels(_CENTRED), offsets=offsets)
    return _packed("CODES4", raw, columns, groups=groups)


def _svdquant_w4a4(layer: StoredLayer) -> PackedTensor:
    """Return a 4-bit matrix for smoothed inputs, plus a low-rank matrix for unchanged inputs."""
    stored, scales = layer.tensors[layer.weight_name], layer.take(*SCALES)
    down = layer.take("weight_proj_down", "proj_down")
    up = layer.take("weight_proj_up", "proj_up")
    smooth = layer.take("weight_smooth_factor", "smooth_factor")
    if stored.ndim == 4 and isinstance(stored, Tensor):
        layer.tensors[layer.weight_name] = _untiled(layer, stored)
        scales = scales.permute(1, 0, 2).flatten(1) if scales.ndim == 3 else scales
        up = up.permute(0, 2, 1).flatten(0, 1) if up.ndim == 3 else up
    raw = layer.weight("int8", "uint8")
    rows, columns = len(raw), 2 * raw.shape[1]
    count = _group_count(layer, columns, 64)
    rank = down.shape[-1] if down.ndim == 2 else 0
    low_rank = LowRank(
        down=layer.numbers("weight_proj_down", down, (columns, rank)).t().contiguous(),
        up=layer.numbers("weight_proj_up", up, (rows, rank)),
    )
    weight = _packed(
        "CODES4",
        raw,
        columns,
        groups=Groups(scales=_transposed(layer, SCALES[0], scales, count, rows), levels=_levels(_SIGNED)),
        column_scale=1 / layer.numbers("weight_smooth_factor", smooth, (columns,)).float(),
        low_rank=low_rank,
    )
    if layer.flag("act_unsigned"):
        _shift_bias(layer, weight)
    return weight


COMFY_FORMATS: Mapping[str, Callable[[StoredLayer], PackedTensor]] = {
    "int8_tensorwise": int8_weight,
    "mxfp8": _mxfp8,
    "nvfp4": _nvfp4,
    "convrot_w4a4": _convrot_w4a4,
    "asym_w4a8_int8": _w4a8,
    "w4a8_int8": _w4a8,
    "w4a8": _w4a8,
    "awq_w4a16": _awq_w4a16,
    "svdquant_w4a4": _svdquant_w4a4,
}


def _packed(
    kind: str,
    raw: Tensor,
    columns: int,
    *,
    scale: Tensor | None = None,
    groups: Groups | None = None,
    rotation: int = 0,
    column_scale: Tensor | None = None,
    low_rank: LowRank | None = None,
) -> PackedTensor:
    return PackedTensor(
        data=raw.contiguous().view(torch.uint8),
        type=type_named(kind),
        shape=(len(raw), columns),
        scale=scale,
        groups=groups,
        rotation=rotation,
        column_scale=column_scale,
        low_rank=low_rank,
    )


def _levels(numbers: object) -> Tensor:
    return torch.tensor([*numbers], dtype=torch.float32)[None]  # type: ignore[misc]


def _scale_of_rows(layer: StoredLayer, kind: str, scale: Tensor, rows: int) -> Tensor:
    """Return a scale as float32 [] or [rows, 1]."""
    if not scale.is_floating_point() or scale.numel() not in (1, rows):
        raise CheckpointError(f"{layer.name(kind)} must be one number, or one for each of {rows} rows")
    return (scale.float().reshape(()) if scale.numel() == 1 else scale.float().reshape(rows, 1)).clone()


def _rotation(layer: StoredLayer, columns: int) -> int:
    group = layer.option("convrot_groupsize", 256)
    if not is_rotation(group) or columns % group:
        raise CheckpointError(
            f"{layer.name('comfy_quant')} has convrot_groupsize {group} for {columns} columns, where a power of 4 that"
            " divides them is needed"
        )
    return group


def _unblocked(layer: StoredLayer, blocked: Tensor, rows: int, columns: int, size: int) -> Tensor:
    """Return group scales as [rows, groups], from the order in which cuBLAS reads them.

    That order has padded tiles of 128 rows and 4 groups. Each tile holds 32 rows of 4 x 4 numbers
    (https://docs.nvidia.com/cuda/cublas/#d-block-scaling-factors-layout).
    """
    count = columns // size
    tall, wide = -(-rows // 128), -(-count // 4)
    if columns % size or blocked.numel() != tall * wide * 512:
        raise CheckpointError(
            f"{layer.name(SCALES[0])} has {blocked.numel()} numbers, where {rows} rows of {columns} columns in groups"
            f" of {size} need {tall * wide * 512}"
        )
    tiles = blocked.reshape(tall, wide, 32, 4, 4).permute(0, 3, 2, 1, 4)
    return tiles.reshape(tall * 128, wide * 4)[:rows, :count].contiguous()


def _bytes(layer: StoredLayer, scales: Tensor) -> Tensor:
    if scales.element_size() != 1:
        raise CheckpointError(f"{layer.name(SCALES[0])} must hold numbers of 8 bits")
    return scales.view(torch.uint8)


def _group_count(layer: StoredLayer, columns: int, size: int) -> int:
    if columns % size:
        raise CheckpointError(f"{layer.weight_name} has {columns} columns, which do not divide into groups of {size}")
    return columns // size


def _transposed(layer: StoredLayer, kind: str, tensor: Tensor, groups: int, rows: int) -> Tensor:
    return layer.numbers(kind, tensor, (groups, rows)).t().contiguous()


def _untiled(layer: StoredLayer, tiled: Tensor) -> Tensor:
    """Return rows of packed codes from tiles [rows / 128, columns / 64, 32, 4 rows of 32 bytes]."""
    if tuple(tiled.shape[2:]) != (32, 128):
        raise CheckpointError(f"{layer.weight_name} has the shape {list(tiled.shape)}, which is no known tiling")
    tall, wide = tiled.shape[:2]
    return tiled.view(tall, wide, 32, 4, 32).permute(0, 2, 3, 1, 4).reshape(tall * 128, wide * 32)


def _shift_bias(layer: StoredLayer, weight: PackedTensor) -> None:
    """Add to the bias the effect of a constant that is added to all inputs of the 4-bit matrix."""
    import attrs

    bias = layer.tensors.get(layer.name("bias"))
    if not isinstance(bias, Tensor) or tuple(bias.shape) != weight.shape[:1]:
        raise CheckpointError(f"{layer.name('bias')} is missing, which act_unsigned needs")
    sums = attrs.evolve(weight, low_rank=None).expand().sum(1)
    layer.tensors[layer.name("bias")] = (bias.float() + _GELU_SHIFT * sums).to(bias.dtype)
