"""CLIP and T5: prompts to token ids, and ids to the embeddings that condition FLUX.1.

CLIP (Radford et al. 2021, arXiv 2103.00020) gives one pooled vector per prompt, T5 v1.1 (Raffel et al. 2020, arXiv
1910.10683; gated GELU after Shazeer 2020, arXiv 2002.05202) one vector per token. Parameter names are those of the
published files (clip_l.safetensors, t5xxl_fp16.safetensors). The encoders compute in the dtype of their embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn import functional as F

from mold_core import CheckpointError

__all__ = [
    "CLIP_L",
    "T5_XXL",
    "ClipConfig",
    "ClipTextEncoder",
    "ClipTokenizer",
    "PromptTokenizer",
    "T5Config",
    "T5Encoder",
    "T5Tokenizer",
]


@frozen(kw_only=True)
class ClipConfig:
    """The sizes of one CLIP text encoder. The defaults are CLIP-L's."""

    hidden_size: int = 768
    mlp_size: int = 3072
    heads: int = 12
    depth: int = 12
    vocabulary: int = 49408
    positions: int = 77
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    eos_id: int = 49407


@frozen(kw_only=True)
class T5Config:
    """The sizes of one T5 v1.1 encoder. The defaults are T5-XXL's."""

    hidden_size: int = 4096
    mlp_size: int = 10240
    heads: int = 64
    head_dim: int = 64
    depth: int = 24
    vocabulary: int = 32128
    buckets: int = 32
    max_distance: int = 128


CLIP_L = ClipConfig()
T5_XXL = T5Config()


class ClipAttention(nn.Module):
    """Causal self-attention."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.heads = config.heads

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        output: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return output


class ClipMlp(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.mlp_size)
        self.fc2 = nn.Linear(config.mlp_size, config.hidden_size)
        self.activation = config.activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        output: Tensor = self.fc2(x * torch.sigmoid(1.702 * x) if self.activation == "quick_gelu" else F.gelu(x))
        return output


class ClipLayer(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size)
        self.self_attn = ClipAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size)
        self.mlp = ClipMlp(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        output: Tensor = x + self.mlp(self.layer_norm2(x))
        return output


class ClipEmbeddings(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocabulary, config.hidden_size)
        self.position_embedding = nn.Embedding(config.positions, config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device)
        output: Tensor = self.token_embedding(ids) + self.position_embedding(positions)
        return output


class ClipLayers(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ClipLayer(config) for _ in range(config.depth))


class ClipTextModel(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.embeddings = ClipEmbeddings(config)
        self.encoder = ClipLayers(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size)


class ClipTextEncoder(nn.Module):
    """CLIP's text half."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = ClipTextModel(config)

    def forward(self, ids: Tensor) -> Tensor:
        """Return pooled embeddings [B, hidden_size]: the last hidden state at each prompt's first EOS token.

        ids [B, T], int64, each row holding at least one EOS.
        """
        end = (ids == self.config.eos_id).int().argmax(dim=1)
        # PERF: attention is causal, so tokens after the last of the first EOS tokens have no influence.
        x = self.text_model.embeddings(ids[:, : int(end.max()) + 1])
        for layer in self.text_model.encoder.layers:
            x = layer(x)
        output: Tensor = self.text_model.final_layer_norm(x[torch.arange(len(x), device=x.device), end])
        return output


class T5Norm(nn.Module):
    """RMS norm (without subtracting the mean), in fp32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        root = torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
        return (wide * root).to(x.dtype) * self.weight.to(x.dtype)


class T5Attention(nn.Module):
    """Self-attention without the usual scaling, which T5's initialisation contains."""

    def __init__(self, config: T5Config, *, has_bias: bool) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.q = nn.Linear(config.hidden_size, inner, bias=False)
        self.k = nn.Linear(config.hidden_size, inner, bias=False)
        self.v = nn.Linear(config.hidden_size, inner, bias=False)
        self.o = nn.Linear(inner, config.hidden_size, bias=False)
        if has_bias:  # all blocks use that of the first
            self.relative_attention_bias = nn.Embedding(config.buckets, config.heads)
        self.heads = config.heads

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        query, key, value = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for projection in (self.q, self.k, self.v)
        )
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        output: Tensor = self.o(out.transpose(1, 2).flatten(2))
        return output


class T5Mlp(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(config.hidden_size, config.mlp_size, bias=False)
        self.wi_1 = nn.Linear(config.hidden_size, config.mlp_size, bias=False)
        self.wo = nn.Linear(config.mlp_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))
        return output


class T5AttentionLayer(nn.Module):
    def __init__(self, config: T5Config, *, has_bias: bool) -> None:
        super().__init__()
        self.SelfAttention = T5Attention(config, has_bias=has_bias)
        self.layer_norm = T5Norm(config.hidden_size)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return finite(x + self.SelfAttention(self.layer_norm(x), bias))


class T5MlpLayer(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.DenseReluDense = T5Mlp(config)
        self.layer_norm = T5Norm(config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return finite(x + self.DenseReluDense(self.layer_norm(x)))


class T5Block(nn.Module):
    def __init__(self, config: T5Config, *, has_bias: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([T5AttentionLayer(config, has_bias=has_bias), T5MlpLayer(config)])

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        output: Tensor = self.layer[1](self.layer[0](x, bias))
        return output


class T5Stack(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.block = nn.ModuleList(T5Block(config, has_bias=number == 0) for number in range(config.depth))
        self.final_layer_norm = T5Norm(config.hidden_size)


class T5Encoder(nn.Module):
    """T5's encoder half."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(config.vocabulary, config.hidden_size)
        self.encoder = T5Stack(config)

    def forward(self, ids: Tensor) -> Tensor:
        """Return embeddings [B, T, hidden_size] of ids [B, T], int64.

        Padding is attended to like any token, as in the training of FLUX.
        """
        x = self.shared(ids)
        buckets = relative_buckets(ids.shape[1], self.config.buckets, self.config.max_distance).to(ids.device)
        bias = self._relative_bias()(buckets)
        bias = bias.permute(2, 0, 1)[None].to(x.dtype).contiguous()
        for block in self.encoder.block:
            x = block(x, bias)
        output: Tensor = self.encoder.final_layer_norm(x)
        return output

    def stream_units(self) -> list[nn.Module]:
        """Return the submodules that can be streamed, in the order of their use."""
        return [self._relative_bias(), *self.encoder.block]

    def _relative_bias(self) -> nn.Module:
        return self.get_submodule("encoder.block.0.layer.0.SelfAttention.relative_attention_bias")


def relative_buckets(length: int, buckets: int, max_distance: int) -> Tensor:
    """Return bucket numbers [length, length] for key minus query position (arXiv 1910.10683, section 2.1).

    Half of the buckets are for keys after the query. The first half of each half are single distances, the rest
    distances that grow logarithmically up to max_distance.
    """
    positions = torch.arange(length)
    distance = positions[None, :] - positions[:, None]
    half = buckets // 2
    exact = half // 2
    far = torch.log(distance.abs().clamp(min=1) / exact) / math.log(max_distance / exact) * (half - exact)
    far = (exact + far.long()).clamp(max=half - 1)
    return torch.where(distance.abs() < exact, distance.abs(), far) + half * (distance > 0)


def finite(x: Tensor) -> Tensor:
    """Return x, clamped in fp16, whose range T5's residual stream exceeds."""
    return x.clamp(-64504, 64504) if x.dtype == torch.float16 else x


class PromptTokenizer:
    """Converts prompts to token ids, truncated and padded to one length, with a tokenizer.json."""

    def __init__(self, path: str | Path, *, bos: str | None, eos: str, pad: str, length: int) -> None:
        """`length` is the default number of ids per prompt, including BOS (if any) and EOS."""
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        found = {token: self._tokenizer.token_to_id(token) for token in (bos, eos, pad) if token}
        ids = {token: number for token, number in found.items() if number is not None}
        if len(ids) < len(found):
            missing = ", ".join(token for token in found if token not in ids)
            raise CheckpointError("%s is no tokenizer for this text encoder: it lacks %s", Path(path), missing)
        self._start = [ids[bos]] if bos else []
        self._end = ids[eos]
        self._pad = ids[pad]
        self.length = length

    def encode(self, prompts: Sequence[str], length: int | None = None) -> Tensor:
        """Return ids [B, length], int64: BOS (if any), at most as many tokens as fit, EOS, padding."""
        return torch.tensor([self._row(prompt, length or self.length) for prompt in prompts], dtype=torch.int64)

    def _row(self, prompt: str, length: int) -> list[int]:
        text = prompt.encode("utf-8", "replace").decode("utf-8")  # JSON may contain half surrogate pairs
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        row = [*self._start, *ids[: length - len(self._start) - 1], self._end]
        return row + [self._pad] * (length - len(row))


class ClipTokenizer(PromptTokenizer):
    """CLIP's byte-pair tokens: BOS, prompt, EOS, and EOS again as padding."""

    def __init__(self, path: str | Path, *, length: int = 77) -> None:
        super().__init__(path, bos="<|startoftext|>", eos="<|endoftext|>", pad="<|endoftext|>", length=length)


class T5Tokenizer(PromptTokenizer):
    """T5's unigram tokens: prompt, </s>, and <pad> as padding."""

    def __init__(self, path: str | Path, *, length: int = 512) -> None:
        super().__init__(path, bos=None, eos="</s>", pad="<pad>", length=length)
