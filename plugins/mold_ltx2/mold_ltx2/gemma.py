"""The text encoder of LTX-2: Gemma 3's language model, from the official shards or from a GGUF file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mold_core.weights import PackedTensor, empty_modules

__all__ = ["gemma_config", "gemma_names", "gemma_network", "gemma_tensors", "scale_embeddings"]

T = TypeVar("T")

# Gemma 3 12B.
_OFFICIAL: dict[str, Any] = {
    "vocab_size": 262_208,
    "hidden_size": 3840,
    "intermediate_size": 15_360,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 1024,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 131_072,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    },
}

# llama.cpp's names, and those of transformers.
_IN_GGUF = (
    ("token_embd", "embed_tokens"),
    ("output_norm", "norm"),
    ("blk.", "layers."),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_q.", "self_attn.q_proj."),
    ("attn_k.", "self_attn.k_proj."),
    ("attn_v.", "self_attn.v_proj."),
    ("attn_output", "self_attn.o_proj"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
)
_PREFIX = re.compile(r"^(?:model\.language_model\.|language_model\.model\.|model\.)")


def gemma_config(**sizes: Any) -> Any:
    """Return the configuration of Gemma 3's language model; `sizes` replace those of the 12B model."""
    from transformers import Gemma3TextConfig

    return Gemma3TextConfig(**{**_OFFICIAL, **sizes}, tie_word_embeddings=True)


def gemma_network(config: Any) -> Any:
    """Return the network without weights, on the meta device. Only the rotary frequencies are computed.

    Its embedding is a plain one, which can stay quantised; call `scale_embeddings` once it has its weights.
    """
    from transformers import Gemma3TextModel

    with empty_modules():
        network: Any = Gemma3TextModel(config)
        network.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
    network.rotary_emb = type(network.rotary_emb)(config)
    return network


def scale_embeddings(network: Any) -> None:
    """Let the embedding multiply its vectors by the square root of their width, in their dtype, as Gemma does."""
    scale = torch.tensor(network.config.hidden_size**0.5)
    network.embed_tokens.register_forward_hook(lambda module, ids, vectors: vectors * scale.to(vectors))


def gemma_names(tensors: Mapping[str, T]) -> dict[str, T]:
    """Return the tensors of the language model under transformers' names, without vision towers and heads.

    `tensors` are those of one file, which may have none.
    """
    renamed = _from_gguf if _is_gguf(tensors) else _from_shards
    return {new: tensor for name, tensor in tensors.items() if (new := renamed(name)) is not None}


def gemma_tensors(tensors: Mapping[str, Tensor | PackedTensor]) -> dict[str, Tensor | PackedTensor]:
    """Return the tensors of the language model with the values that transformers expects.

    A GGUF file has the factors of norms, transformers those factors minus one.
    """
    found = gemma_names(tensors)
    if _is_gguf(tensors):
        for name, tensor in found.items():
            if "norm" in name:
                dense = tensor if isinstance(tensor, Tensor) else tensor.expand()
                found[name] = dense.float() - 1
    return found


def _is_gguf(tensors: Mapping[str, object]) -> bool:
    return any(name.startswith(("blk.", "token_embd.")) for name in tensors)


def _from_shards(name: str) -> str | None:
    if not _PREFIX.match(name) or "vision" in name or "projector" in name:
        return None
    return _PREFIX.sub("", name)


def _from_gguf(name: str) -> str | None:
    for old, new in _IN_GGUF:
        name = name.replace(old, new)
    return None if name.startswith(("output.", "rope_freqs")) else name
