"""Gemma 3 out of GGUF files and shards gives the hidden states that transformers' model gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_files import write_gguf
from safetensors.torch import save_file
from torch import Tensor

from mold_core import CheckpointError, LocalFiles
from mold_core.weights import BlockStream, PackedEmbedding, PackedLinear, load_weights, read_weights
from mold_ltx2.components import Components
from mold_ltx2.gemma import gemma_config, gemma_network, scale_embeddings

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 7,  # the sixth looks at everything, the others at what is near
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": 8,
    "max_position_embeddings": 512,
}
IDS = torch.arange(20)[None] * 7 % 40

# llama.cpp's names of what is in a layer.
IN_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture(scope="module")
def gemma() -> Any:
    from transformers import Gemma3TextModel

    torch.manual_seed(0)
    made = Gemma3TextModel(gemma_config(**SIZES)).eval()
    for name, parameter in made.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3 if "norm" in name else 0.2)
    return made


def in_gguf(name: str) -> str:
    """Return llama.cpp's name of a tensor."""
    if not name.startswith("layers."):
        return {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}[name]
    _, number, rest = name.split(".", 2)
    return f"blk.{number}.{IN_LAYER[rest.removesuffix('.weight')]}.weight"


def states(network: Any) -> Tensor:
    with torch.inference_mode():
        found: tuple[Tensor, ...] = network(input_ids=IDS, output_hidden_states=True, use_cache=False).hidden_states
    return torch.stack(found)


def loaded(*paths: Path) -> Any:
    tensors = Components(LocalFiles({"text_encoder": paths}), {}).text_tensors()
    network = gemma_network(gemma_config(**SIZES))
    load_weights(network, tensors, paths[0], dtype=torch.float32, device="cpu")
    scale_embeddings(network)
    return network.eval()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_a_gguf_file_stays_packed_and_equals_the_dense_model(gemma: Any, tmp_path: Path, kind: str) -> None:
    path, state = tmp_path / "gemma.gguf", gemma.state_dict()
    # Norms are written as they are multiplied with; the head and the frequencies are not for us.
    written = {in_gguf(name): tensor + 1 if "norm" in name else tensor for name, tensor in state.items()}
    kinds = {in_gguf(name): kind for name, tensor in state.items() if tensor.ndim == 2}
    extra = {"output.weight": state["embed_tokens.weight"], "rope_freqs.weight": torch.ones(8)}
    write_gguf(path, {**written, **extra}, kinds, "gemma3")
    network = loaded(path)
    assert isinstance(network.embed_tokens, PackedEmbedding)
    assert isinstance(network.layers[0].mlp.up_proj, PackedLinear)
    numbers = read_weights(path)
    dense = {
        name: numbers[in_gguf(name)].expand() if in_gguf(name) in kinds else tensor  # type: ignore[union-attr]
        for name, tensor in state.items()
    }
    other = gemma_network(gemma_config(**SIZES))
    load_weights(other, dense, path, dtype=torch.float32, device="cpu")
    scale_embeddings(other)
    assert torch.allclose(states(network), states(other.eval()), atol=1e-4)
    error = (states(network) - states(gemma)).std() / states(gemma).std()
    assert error < {"Q8_0": 0.05, "Q4_0": 0.5}[kind]


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model.", "model."])
def test_shards_are_put_together_and_what_is_for_images_is_left_out(gemma: Any, tmp_path: Path, prefix: str) -> None:
    tensors = [(f"{prefix}{name}", tensor.clone()) for name, tensor in gemma.state_dict().items()]
    images = {
        "vision_tower.vision_model.embeddings.patch_embedding.bias": torch.ones(4),
        "model.vision_tower.vision_model.post_layernorm.weight": torch.ones(4),
        "multi_modal_projector.mm_input_projection_weight": torch.ones(4, 4),
        "model.multi_modal_projector.mm_soft_emb_norm.weight": torch.ones(4),
        "language_model.lm_head.weight": torch.ones(4, 4),
        "spiece_model": torch.ones(4),
    }
    shards = [dict(tensors[:9]), images, dict(tensors[9:])]
    paths = [tmp_path / f"model-{number}.safetensors" for number in range(3)]
    for shard, path in zip(shards, paths, strict=True):
        save_file(shard, path)
    assert torch.equal(states(loaded(*paths)), states(gemma))


def test_layers_in_fp8_stand_beside_others(gemma: Any, tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for name, tensor in gemma.state_dict().items():
        if "mlp." in name:
            scale = tensor.abs().max() / 448
            tensors[f"model.{name}"] = (tensor / scale).to(torch.float8_e4m3fn)
            tensors[f"model.{name.replace('.weight', '.weight_scale')}"] = scale
        else:
            tensors[f"model.{name}"] = tensor.clone()
    save_file(tensors, tmp_path / "gemma.safetensors")
    network = loaded(tmp_path / "gemma.safetensors")
    assert isinstance(network.layers[0].mlp.up_proj, PackedLinear)
    assert (states(network) - states(gemma)).std() / states(gemma).std() < 0.2


def test_streamed_block_by_block_it_gives_the_same_bits_in_bf16(gemma: Any) -> None:
    def filled(dtype: torch.dtype | None) -> Any:
        network = gemma_network(gemma_config(**SIZES))
        load_weights(network, gemma.state_dict(), "here", dtype=dtype, device="cpu", as_stored=dtype is None)
        scale_embeddings(network)
        return network.eval().requires_grad_(False)

    whole, streamed = filled(torch.bfloat16), filled(None)
    stream = BlockStream(streamed, list(streamed.layers), device="cpu", dtype=torch.bfloat16)
    assert torch.equal(states(streamed), states(whole))
    stream.close()


def test_a_file_without_gemma_is_refused_by_name(tmp_path: Path) -> None:
    save_file({"vision_tower.a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors: this file holds no Gemma 3 text encoder"):
        loaded(tmp_path / "other.safetensors")
