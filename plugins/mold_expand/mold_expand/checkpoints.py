"""Read sizes and tensors of Qwen3 models from GGUF files.

Tensor names and metadata keys are llama.cpp's (https://github.com/ggml-org/llama.cpp, gguf-py/gguf/constants.py). The
width of a head is read from the metadata or the query matrix: it is not the width divided by the heads in Qwen3.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mold_core import CheckpointError
from mold_core.weights import (
    Int8Embedding,
    Int8Linear,
    PackedEmbedding,
    PackedLinear,
    WeightFile,
    compiled_product,
    empty_modules,
    load_weights,
    open_weights,
    to_int8,
)
from mold_expand.qwen3 import Qwen3, Qwen3Config

if TYPE_CHECKING:
    from mold_core.hookspecs import WeightLoader
    from mold_core.settings import CompileMode

__all__ = ["load_qwen3"]

_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_MOST_LAYERS = 1024

# Smaller models are dequantized when they are loaded, because memory does not limit their speed.
SMALL = 2**24


def load_qwen3(
    path: Path,
    device: str,
    dtype: torch.dtype,
    loaders: tuple[WeightLoader, ...] = (),
    *,
    small: int = SMALL,
    int8: bool = True,
    compile: CompileMode = "auto",
    cache_dir: Path | None = None,
) -> Qwen3:
    """Return the model of a GGUF file, ready to run on a device.

    A model of fewer than `small` numbers is dense, in float32. A larger one stays quantised and computes in `dtype`:
    on a CPU in rows of int8, for which its blocks are rounded again (see `mold_core.weights.int8`), elsewhere and
    without `int8` in the blocks of the file. `compile` and `cache_dir` are those of `compiled_product`. Raises
    CheckpointError naming the file if it is damaged or of another model.
    """
    file = open_weights(path, loaders)
    if not isinstance(file, WeightFile) or file.format != "gguf":
        raise CheckpointError("%s: a language model for expansion must be a GGUF file", path)
    try:
        config = _config(file)
        tensors = {_name(name): source.read() for name, source in file.items()}
    except CheckpointError as error:
        raise CheckpointError("%s: %s", path, error, hint=error.hint) from None
    dense = sum(math.prod(source.shape) for source in file.values()) < small
    dtype = torch.float32 if dense else dtype
    with empty_modules():
        network = Qwen3(config)
    load_weights(network, tensors, path, dtype=dtype, device=device, expand=dense)
    if int8 and not dense and device == "cpu":
        to_int8(network, dtype, compiled_product(compile, cache_dir))
    if config.tied:
        network.lm_head = _output_of(network.model.embed_tokens)
    return network.eval().requires_grad_(False)


def _config(file: WeightFile) -> Qwen3Config:
    meta = file.metadata
    architecture = meta.get("general.architecture")
    if architecture != "qwen3":
        raise CheckpointError(f"this is a model of architecture {str(architecture)[:40]!r}, not 'qwen3'")

    def shape(name: str, *dims: int | None) -> tuple[int, ...]:
        if name not in file or len(file[name].shape) != len(dims):
            raise CheckpointError(f"it lacks the tensor {name}, or its shape is not that of Qwen3")
        return file[name].shape

    def number(key: str, default: float | None = None) -> float:
        value: Any = meta.get(f"qwen3.{key}", default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**40:
            raise CheckpointError(f"its metadata has no usable qwen3.{key}")
        return value

    vocabulary, width = shape("token_embd.weight", None, None)
    queries, _ = shape("blk.0.attn_q.weight", None, None)
    heads, layers = int(number("attention.head_count")), int(number("block_count"))
    if layers > _MOST_LAYERS:
        raise CheckpointError(f"its metadata claims {layers} layers")
    return Qwen3Config(
        vocabulary=vocabulary,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=int(number("attention.head_count_kv", heads)),
        head_dim=int(number("attention.key_length", max(1, queries // heads))),
        ff_width=shape("blk.0.ffn_gate.weight", None, None)[0],
        theta=float(number("rope.freq_base", 1_000_000.0)),
        eps=float(number("attention.layer_norm_rms_epsilon", 1e-6)),
        tied="output.weight" not in file,
    )


def _name(name: str) -> str:
    block = _BLOCK.fullmatch(name)
    if block and block[2] in _INSIDE:
        return f"model.layers.{block[1]}.{_INSIDE[block[2]]}.weight"
    return _OUTSIDE.get(name, name)


def _output_of(embedding: nn.Module) -> nn.Module:
    """Return an output layer that shares the memory of an embedding."""
    if isinstance(embedding, PackedEmbedding):
        return PackedLinear(embedding.weight)
    if isinstance(embedding, Int8Embedding):
        return Int8Linear(embedding.rows)
    assert isinstance(embedding, nn.Embedding)
    output = nn.Linear(1, 1, bias=False)
    output.weight = embedding.weight
    output.out_features, output.in_features = embedding.weight.shape
    return output
