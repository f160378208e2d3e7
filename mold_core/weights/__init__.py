"""Files → tensors → networks: safetensors and GGUF readers, expansion of quantised blocks, packed layers.

Opening a file needs no torch: names that do are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mold_core.cancelling import check_cancelled
from mold_core.weights.files import BUILT_IN, open_weights, read_weights
from mold_core.weights.measuring import PartSizes, held_bytes, measure
from mold_core.weights.out_of_memory import is_out_of_memory, release_cached
from mold_core.weights.source import TensorSource, WeightFile
from mold_core.weights.types import StoredType, type_named

if TYPE_CHECKING:
    from mold_core.weights.blocks import check_before_block, check_between_blocks
    from mold_core.weights.building import unfilled
    from mold_core.weights.compiled import Kernel, kernel_for
    from mold_core.weights.expand import dequantise
    from mold_core.weights.filling import fill, weight_bytes
    from mold_core.weights.finite import all_finite, check_finite
    from mold_core.weights.int8 import Int8Embedding, Int8Linear, to_int8
    from mold_core.weights.layers import PackedEmbedding, PackedLinear
    from mold_core.weights.lora import Adapter, AdapterShelf, read_adapter
    from mold_core.weights.lora_names import AdapterNames, Place, flat, linear_layers
    from mold_core.weights.packed import PackedTensor, Scratch, concatenate
    from mold_core.weights.panels import compiled_product
    from mold_core.weights.parts import LoadedParts, PartLoader
    from mold_core.weights.progress import LoadProgress
    from mold_core.weights.side_branch import adapted
    from mold_core.weights.streaming import BlockStream

_WITH_TORCH = {
    "Adapter": "lora",
    "AdapterNames": "lora_names",
    "AdapterShelf": "lora",
    "Place": "lora_names",
    "adapted": "side_branch",
    "all_finite": "finite",
    "check_before_block": "blocks",
    "check_between_blocks": "blocks",
    "check_finite": "finite",
    "flat": "lora_names",
    "linear_layers": "lora_names",
    "read_adapter": "lora",
    "BlockStream": "streaming",
    "Kernel": "compiled",
    "LoadProgress": "progress",
    "LoadedParts": "parts",
    "Int8Embedding": "int8",
    "Int8Linear": "int8",
    "PackedEmbedding": "layers",
    "PackedLinear": "layers",
    "PackedTensor": "packed",
    "PartLoader": "parts",
    "Scratch": "packed",
    "compiled_product": "panels",
    "concatenate": "packed",
    "dequantise": "expand",
    "fill": "filling",
    "kernel_for": "compiled",
    "weight_bytes": "filling",
    "to_int8": "int8",
    "unfilled": "building",
}

__all__ = [
    "BUILT_IN",
    "Adapter",
    "AdapterNames",
    "AdapterShelf",
    "BlockStream",
    "Int8Embedding",
    "Int8Linear",
    "Kernel",
    "LoadProgress",
    "LoadedParts",
    "PackedEmbedding",
    "PackedLinear",
    "PackedTensor",
    "PartLoader",
    "PartSizes",
    "Place",
    "Scratch",
    "StoredType",
    "TensorSource",
    "WeightFile",
    "adapted",
    "all_finite",
    "check_before_block",
    "check_between_blocks",
    "check_cancelled",
    "check_finite",
    "compiled_product",
    "concatenate",
    "dequantise",
    "fill",
    "flat",
    "held_bytes",
    "is_out_of_memory",
    "kernel_for",
    "linear_layers",
    "measure",
    "open_weights",
    "read_adapter",
    "read_weights",
    "release_cached",
    "to_int8",
    "type_named",
    "unfilled",
    "weight_bytes",
]


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module 'mold_core.weights' has no attribute {name!r}")
    return getattr(import_module(f"mold_core.weights.{_WITH_TORCH[name]}"), name)
