"""Join the quantised weights of a file with their scales, markers and low-rank matrices.

Files of ComfyUI mark a layer by a tensor `comfy_quant`, or all layers in the header; older files have fp8 weights with
scales and no marker. Formats that mold cannot read are recognised by name and refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from mold_core.errors import CheckpointError
from mold_core.weights import bitsandbytes
from mold_core.weights.comfy_formats import COMFY_FORMATS, INPUT_SCALES, SCALES, fp8_weight, int8_weight
from mold_core.weights.json_tensor import read_json
from mold_core.weights.packed import PackedTensor
from mold_core.weights.source import shown
from mold_core.weights.stored_layer import StoredLayer, Tensors

__all__ = ["pack_layers"]

_MARK = "comfy_quant"
_HEADER_KEY = "_quantization_metadata"
_FP8_MARK = "scaled_fp8"
_FP8_FORMATS = ("float8_e4m3fn", "float8_e5m2")
# Tensors that converters leave next to layers that they did not quantise, and options without effect in mold.
_LEFT_OVER = (*SCALES, *INPUT_SCALES, "weight_scale_2", _MARK)

# Suffixes of quantised weights of other libraries → the name of the library.
_FOREIGN = {
    "._weight_qdata": "torchao",
    ":qdata": "torchao",
    ".weight.tensor_impl": "torchao",
    ".weight._data": "quanto",
    ".weight._data._data": "quanto",
    ".wscales": "nunchaku",
    ".qzeros": "AutoGPTQ or AutoAWQ",
    ".qweight": "AutoGPTQ, AutoAWQ or nunchaku",
    ".W_q": "HQQ",
}


def pack_layers(tensors: Tensors, metadata: Mapping[str, object]) -> Tensors:
    """Return the tensors of a file with complete quantised weights, which include the tensors that belong to them.

    Raises CheckpointError, naming the tensor, for a weight that is incomplete or inconsistent, or has a format that
    mold cannot read.
    """
    _refuse_foreign(tensors, metadata)
    configs = _configs(tensors, metadata)
    stems = _quantised_stems(tensors, configs)
    if not stems:
        return tensors
    found = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] != _FP8_MARK}
    for stem, config in stems.items():
        layer = StoredLayer(found, stem, config)
        layer.find(_MARK)
        found[layer.weight_name] = _weight_of(layer)
        for kind in INPUT_SCALES:
            layer.find(kind)
    _drop_left_over(found)
    return found


def _weight_of(layer: StoredLayer) -> Tensor | PackedTensor:
    weight = layer.tensors[layer.weight_name]
    if isinstance(weight, Tensor) and weight.is_floating_point():  # it was not quantised, despite the marker
        return weight
    name = layer.config.get("format")
    if isinstance(name, str) and name in COMFY_FORMATS:
        return COMFY_FORMATS[name](layer)
    if name is not None and name not in _FP8_FORMATS:
        known = ", ".join((*_FP8_FORMATS, *COMFY_FORMATS))
        raise CheckpointError(
            f"{layer.name(_MARK)} declares the format {str(name)[:60]!r}, which mold does not read"
            f" (supported: {known})",
            hint="a GGUF, fp8 or int8 file of the same model works",
        )
    if isinstance(weight, PackedTensor):
        return fp8_weight(layer, weight)
    state = _four_bit_state(layer)
    if state is not None:
        return bitsandbytes.four_bit_weight(layer, state)
    if layer.name("SCB") in layer.tensors:
        return bitsandbytes.int8_rows(layer)
    return int8_weight(layer)


def _quantised_stems(tensors: Tensors, configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the layers with quantised weights, and the file's configuration of each."""
    stems: dict[str, Mapping[str, Any]] = {}
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        if kind != "weight":
            continue
        eight_bits = isinstance(tensor, PackedTensor) and tensor.type.torch_dtype is not None
        bytes_ = isinstance(tensor, Tensor) and str(tensor.dtype) in ("torch.int8", "torch.uint8") and tensor.ndim == 2
        if stem in configs or eight_bits or bytes_:
            stems[stem] = configs.get(stem, {})
    return stems


def _configs(tensors: Tensors, metadata: Mapping[str, object]) -> dict[str, Mapping[str, Any]]:
    """Return the configurations of layers by their stems, from the header or from a tensor of each layer."""
    configs = _configs_of_header(tensors, metadata)
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        if kind == _MARK:
            configs[stem] = read_json(name, tensor)
            if configs[stem].get("format") is None:
                raise CheckpointError(f"{name} names no format")
    return configs


def _configs_of_header(tensors: Tensors, metadata: Mapping[str, object]) -> dict[str, Mapping[str, Any]]:
    text = metadata.get(_HEADER_KEY)
    if not isinstance(text, str):
        return {}
    try:
        layers = json.loads(text)["layers"]
    except (ValueError, KeyError, TypeError, RecursionError):
        layers = None
    if not isinstance(layers, dict) or not all(isinstance(config, dict) for config in layers.values()):
        raise CheckpointError(f"{_HEADER_KEY} in the header does not list layers")
    weights = {name.removesuffix(".weight") for name in tensors if name.endswith(".weight")}
    return {stem: config for layer, config in layers.items() for stem in _stems_of(layer, weights)}


def _stems_of(layer: str, weights: Iterable[str]) -> list[str]:
    """Return the layers that a name in the header matches; the header omits a prefix that all names have."""
    known = set(weights)
    return [layer] if layer in known else [stem for stem in known if stem.endswith(f".{layer}")][:1]


def _four_bit_state(layer: StoredLayer) -> str | None:
    return next((kind for kind in ("nf4", "fp4") if layer.name(f"{bitsandbytes.STATE}{kind}") in layer.tensors), None)


def _drop_left_over(tensors: Tensors) -> None:
    """Remove the extra tensors of weights that are not quantised, in a file with quantised weights."""
    for name in [name for name in tensors if name.rpartition(".")[2] in _LEFT_OVER]:
        if f"{name.rpartition('.')[0]}.weight" in tensors:
            del tensors[name]


def _refuse_foreign(tensors: Tensors, metadata: Mapping[str, object]) -> None:
    for name in tensors:
        for ending, library in _FOREIGN.items():
            if name.endswith(ending):
                raise _foreign(library, f"it contains {shown(name)}")
    if any("torchao" in str(value)[:100_000] for value in metadata.values() if isinstance(value, str)):
        raise _foreign("torchao", "its header says so")


def _foreign(library: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"these weights were quantised by {library} ({reason}), whose format mold does not read",
        hint="a GGUF, fp8 or int8 file of the same model works, or the model in bf16",
    )
