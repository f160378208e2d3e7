"""Files → tensors → networks: safetensors and GGUF readers, dequantization of blocks, packed layers.

Opening a file needs no torch. Names that need it are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mold_core.cancelling import check_cancelled
from mold_core.deprecated import old_name
from mold_core.weights.files import BUILT_IN, open_weights, read_weights
from mold_core.weights.lora_description import LoraDescription, describe_lora
from mold_core.weights.lora_keys import flat, split_key
from mold_core.weights.mapping import MappedFile
from mold_core.weights.measuring import ComponentSizes, held_bytes, measure
from mold_core.weights.out_of_memory import is_out_of_memory, release_cached
from mold_core.weights.source import TensorSource, WeightFile
from mold_core.weights.types import StoredType, type_named

if TYPE_CHECKING:
    from mold_core.weights.blocks import check_before_block, check_between_blocks
    from mold_core.weights.compiled import kernel_for
    from mold_core.weights.compiled_blocks import Compilation, compile_modules, configured, problem_of, worth_compiling
    from mold_core.weights.components import ComponentLoader, LoadedComponents
    from mold_core.weights.dequantization import Kernel, dequantize
    from mold_core.weights.dtypes import fast_dtype, overflows_fp16, wide_dtype
    from mold_core.weights.finite import all_finite, check_finite
    from mold_core.weights.int8 import Int8Embedding, Int8Linear, to_int8
    from mold_core.weights.int8_gemm import compiled_product
    from mold_core.weights.layers import PackedEmbedding, PackedLinear
    from mold_core.weights.lora import Lora, LoraCache, read_lora
    from mold_core.weights.lora_linear import with_loras_applied
    from mold_core.weights.lora_names import LoraNames, Place, linear_layers, parameter_layers
    from mold_core.weights.meta_device import empty_modules
    from mold_core.weights.packed import PackedTensor, Scratch, concatenate
    from mold_core.weights.progress import LoadProgress
    from mold_core.weights.streaming import BlockStream
    from mold_core.weights.weight_loading import load_weights, weight_bytes

_WITH_TORCH = {
    "Compilation": "compiled_blocks",
    "compile_modules": "compiled_blocks",
    "configured": "compiled_blocks",
    "problem_of": "compiled_blocks",
    "worth_compiling": "compiled_blocks",
    "Lora": "lora",
    "LoraNames": "lora_names",
    "LoraCache": "lora",
    "Place": "lora_names",
    "with_loras_applied": "lora_linear",
    "all_finite": "finite",
    "check_before_block": "blocks",
    "check_between_blocks": "blocks",
    "check_finite": "finite",
    "linear_layers": "lora_names",
    "parameter_layers": "lora_names",
    "read_lora": "lora",
    "BlockStream": "streaming",
    "Kernel": "dequantization",
    "LoadProgress": "progress",
    "LoadedComponents": "components",
    "Int8Embedding": "int8",
    "Int8Linear": "int8",
    "PackedEmbedding": "layers",
    "PackedLinear": "layers",
    "PackedTensor": "packed",
    "ComponentLoader": "components",
    "Scratch": "packed",
    "compiled_product": "int8_gemm",
    "concatenate": "packed",
    "dequantize": "dequantization",
    "fast_dtype": "dtypes",
    "overflows_fp16": "dtypes",
    "wide_dtype": "dtypes",
    "load_weights": "weight_loading",
    "kernel_for": "compiled",
    "weight_bytes": "weight_loading",
    "to_int8": "int8",
    "empty_modules": "meta_device",
}

__all__ = [
    "BUILT_IN",
    "BlockStream",
    "Compilation",
    "ComponentLoader",
    "ComponentSizes",
    "Int8Embedding",
    "Int8Linear",
    "Kernel",
    "LoadProgress",
    "LoadedComponents",
    "Lora",
    "LoraCache",
    "LoraDescription",
    "LoraNames",
    "MappedFile",
    "PackedEmbedding",
    "PackedLinear",
    "PackedTensor",
    "Place",
    "Scratch",
    "StoredType",
    "TensorSource",
    "WeightFile",
    "all_finite",
    "check_before_block",
    "check_between_blocks",
    "check_cancelled",
    "check_finite",
    "compile_modules",
    "compiled_product",
    "concatenate",
    "configured",
    "dequantize",
    "describe_lora",
    "empty_modules",
    "fast_dtype",
    "flat",
    "held_bytes",
    "is_out_of_memory",
    "kernel_for",
    "linear_layers",
    "load_weights",
    "measure",
    "open_weights",
    "overflows_fp16",
    "parameter_layers",
    "problem_of",
    "read_lora",
    "read_weights",
    "release_cached",
    "split_key",
    "to_int8",
    "type_named",
    "weight_bytes",
    "wide_dtype",
    "with_loras_applied",
    "worth_compiling",
]


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        return old_name("mold_core.weights", name)
    return getattr(import_module(f"mold_core.weights.{_WITH_TORCH[name]}"), name)
