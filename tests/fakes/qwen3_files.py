"""Qwen3 models for tests: a dense one of transformers, and the same in a GGUF file with llama.cpp's names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf_files import random_blocks
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

__all__ = ["dense_qwen3", "write_qwen3"]

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def dense_qwen3(*, tied: bool = True, seed: int = 0, **sizes: Any) -> Qwen3ForCausalLM:
    """Return a small model of transformers with random weights, large enough for its answers to be varied."""
    config = Qwen3Config(
        **{
            "vocab_size": 96,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": tied,
            **sizes,
        }
    )
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter)
        parameter.data = (
            1 + 0.3 * noise if "norm" in name else noise * (0.1 if "embed" in name else 2 * parameter.shape[-1] ** -0.5)
        )
    return model


def write_qwen3(
    path: Path, model: Qwen3ForCausalLM, kind: str | Callable[[str], str] = "Q8_0", *, architecture: str = "qwen3"
) -> None:
    """Write a model, its matrices quantised, and let the model compute with what the quantised numbers mean.

    `kind` may be a function of the tensor's name. Types that the gguf package cannot write (Q4_K …) get random blocks.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    _describe(writer, config)
    for number, (name, parameter) in enumerate(model.named_parameters()):
        numbers = parameter.detach().float().numpy()
        if parameter.ndim < 2:
            writer.add_tensor(_stored(name), numbers)
            continue
        chosen = kind if isinstance(kind, str) else kind(_stored(name))
        type_ = gguf.GGMLQuantizationType[chosen]
        if chosen.endswith("_K"):
            blocks = random_blocks(chosen, *numbers.shape, seed=number)
        else:
            blocks = gguf.quants.quantize(numbers, type_)
        writer.add_tensor(_stored(name), blocks, raw_dtype=type_)
        parameter.data = torch.from_numpy(gguf.quants.dequantize(blocks, type_))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: gguf.GGUFWriter, config: Qwen3Config) -> None:
    """Write every key that llama.cpp's converter writes for Qwen3-0.6B and 1.7B, in its order."""
    writer.add_type("model")
    writer.add_name("Qwen3 0.6B")
    writer.add_basename("Qwen3")
    writer.add_size_label("0.6B")
    writer.add_license("apache-2.0")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(40960)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([f"t{number}" for number in range(config.vocab_size)])
    writer.add_token_types([1] * config.vocab_size)
    writer.add_token_merges(["t 1", "t 2"])
    writer.add_eos_token_id(config.vocab_size - 1)
    writer.add_pad_token_id(config.vocab_size - 2)
    writer.add_bos_token_id(config.vocab_size - 2)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{{ messages }}")
    writer.add_quantization_version(2)
    writer.add_file_type(15)


def _stored(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        _, _, number, inner = stem.split(".", 3)
        return f"blk.{number}.{_NAMES[inner]}.weight"
    return f"{_NAMES[stem]}.weight"


def greedy(model: Qwen3ForCausalLM, ids: list[int], count: int) -> list[int]:
    """Return the likeliest `count` tokens after a text, computed again for each by transformers."""
    ids = list(ids)
    with torch.inference_mode():
        for _ in range(count):
            scores: Tensor = model(torch.tensor([ids])).logits[0, -1]
            ids.append(int(scores.argmax()))
    return ids[-count:]
