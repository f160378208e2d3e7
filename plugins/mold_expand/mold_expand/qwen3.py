"""Qwen3, which reads a prefix once and then generates any number of continuations together.

The architecture is that of the Qwen3 report (arXiv 2505.09388): pre-norm blocks of grouped-query attention with queries
and keys RMS-normalised per head, rotary positions, SwiGLU. Modules carry the published parameter names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mold_core.weights import check_cancelled

__all__ = ["Continuations", "Prefix", "Qwen3", "Qwen3Config"]


@attrs.frozen(kw_only=True)
class Qwen3Config:
    """The sizes of a Qwen3 decoder. `tied`: the embedding is the output layer too."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ff_width: int
    theta: float = 1_000_000.0
    eps: float = 1e-6
    tied: bool = True


@attrs.frozen(eq=False)
class Prefix:
    """The key-value cache of a text: for each layer, keys and values [kv_heads, length, head_dim]."""

    length: int
    layers: tuple[tuple[Tensor, Tensor], ...]


class Continuations:
    """The key-value caches of continuations of one prefix, all of one length.

    The cache of the prefix is shared by all.
    """

    def __init__(self, prefix: Prefix, count: int, max_tokens: int) -> None:
        """`max_tokens` is the maximum length of each continuation."""
        self.prefix = prefix
        self.length = 0
        self.max_tokens = max_tokens
        self.rotations: Tensor | None = None
        keys = prefix.layers[0][0]
        shape = (count, keys.shape[0], max_tokens, keys.shape[2])
        self._cache = [(keys.new_empty(shape), keys.new_empty(shape)) for _ in prefix.layers]

    def add(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values [texts, kv_heads, 1, head_dim] of one token; return those of all tokens."""
        end = self.length + 1
        for memory, new in zip(self._cache[layer], (keys, values), strict=True):
            memory[:, :, self.length : end] = new
        new_keys, new_values = self._cache[layer]
        return new_keys[:, :, :end], new_values[:, :, :end]

    def select(self, texts: Tensor) -> None:
        """Keep only the texts with these indices, int64 [texts]."""
        self._cache = [(keys[texts], values[texts]) for keys, values in self._cache]


class RmsNorm(nn.Module):
    """Root-mean-square normalisation (arXiv 1910.07467), computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return x [..., width] with a mean square of one, times the weights."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.config = config
        inner, kv_inner = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.width, inner, bias=False)
        self.k_proj = nn.Linear(config.width, kv_inner, bias=False)
        self.v_proj = nn.Linear(config.width, kv_inner, bias=False)
        self.o_proj = nn.Linear(inner, config.width, bias=False)
        self.q_norm = RmsNorm(config.head_dim, config.eps)
        self.k_norm = RmsNorm(config.head_dim, config.eps)

    def read(self, x: Tensor, rotations: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the output for a text x [1, length, width], and its keys and values [kv_heads, length, head_dim]."""
        queries, keys, values = self._project(x, rotations)
        out = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
        # PERF: contiguous by head. Otherwise products of later tokens would copy them first, at ten times the cost.
        cached = keys[0].contiguous(), values[0].contiguous()
        return self.o_proj(out.transpose(1, 2).flatten(2)), cached

    def continue_texts(self, x: Tensor, rotations: Tensor, layer: int, texts: Continuations) -> Tensor:
        """Return the output for the next token of each text, x [texts, 1, width]."""
        queries, keys, values = self._project(x, rotations)
        new_keys, new_values = texts.add(layer, keys, values)
        prefix_keys, prefix_values = texts.prefix.layers[layer]
        count, group = len(x), self.config.heads // self.config.kv_heads
        grouped = queries.view(count, self.config.kv_heads, group, -1) * self.config.head_dim**-0.5
        # PERF: the prefix is one matrix for all texts, so one product is enough.
        together = grouped.transpose(0, 1).flatten(1, 2)  # [kv_heads, texts * group, head_dim]
        to_prefix = (together @ prefix_keys.transpose(1, 2)).unflatten(1, (count, group)).transpose(0, 1)
        scores = torch.cat([to_prefix, grouped @ new_keys.transpose(2, 3)], dim=-1)
        weights = scores.softmax(-1, dtype=torch.float32).to(x.dtype)
        of_prefix, of_texts = weights.split([texts.prefix.length, weights.shape[-1] - texts.prefix.length], dim=-1)
        out = (of_prefix.transpose(0, 1).flatten(1, 2) @ prefix_values).unflatten(1, (count, group)).transpose(0, 1)
        out = out + of_texts @ new_values
        output: Tensor = self.o_proj(out.reshape(count, 1, -1))
        return output

    def _project(self, x: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        config = self.config
        queries = self.q_norm(self.q_proj(x).unflatten(-1, (config.heads, config.head_dim))).transpose(1, 2)
        keys = self.k_norm(self.k_proj(x).unflatten(-1, (config.kv_heads, config.head_dim))).transpose(1, 2)
        values = self.v_proj(x).unflatten(-1, (config.kv_heads, config.head_dim)).transpose(1, 2)
        return _rotated(queries, rotations), _rotated(keys, rotations), values


class FeedForward(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.ff_width, bias=False)
        self.up_proj = nn.Linear(config.width, config.ff_width, bias=False)
        self.down_proj = nn.Linear(config.ff_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        output: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return output


class Layer(nn.Module):
    """One block of the decoder."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = FeedForward(config)
        self.input_layernorm = RmsNorm(config.width, config.eps)
        self.post_attention_layernorm = RmsNorm(config.width, config.eps)


class Decoder(nn.Module):
    """All layers below the output layer."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = RmsNorm(config.width, config.eps)

    @property
    def blocks(self) -> Iterable[Layer]:
        """The layers, from the input on."""
        return cast("Iterable[Layer]", self.layers)


class Qwen3(nn.Module):
    """The language model. A tied model needs its `lm_head` set before use."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head: nn.Module | None = None if config.tied else nn.Linear(config.width, config.vocabulary, bias=False)

    def read(self, ids: Tensor) -> tuple[Tensor, Prefix]:
        """Return the scores [1, vocabulary] of the token after a text, ids int64 [length], and the text as a prefix."""
        x = self.model.embed_tokens(ids[None])
        rotations = self._rotations(0, len(ids), x)
        cached = []
        for layer in self.model.blocks:
            check_cancelled()
            out, pair = layer.self_attn.read(layer.input_layernorm(x), rotations)
            cached.append(pair)
            x = x + out
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return self._scores(x[:, -1]), Prefix(len(ids), tuple(cached))

    def continue_texts(self, ids: Tensor, texts: Continuations) -> Tensor:
        """Append one token to each text, ids int64 [texts]; return the scores [texts, vocabulary] of the next."""
        x = self.model.embed_tokens(ids[:, None])
        if texts.rotations is None:  # PERF: computed for all tokens at once; alone, each takes as long as its attention
            texts.rotations = self._rotations(texts.prefix.length, texts.max_tokens, x)
        rotations = texts.rotations[:, texts.length : texts.length + 1]
        for number, layer in enumerate(self.model.blocks):
            x = x + layer.self_attn.continue_texts(layer.input_layernorm(x), rotations, number, texts)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        texts.length += 1
        return self._scores(x[:, -1])

    def _scores(self, x: Tensor) -> Tensor:
        assert self.lm_head is not None
        scores: Tensor = self.lm_head(self.model.norm(x))
        return scores.float()

    def _rotations(self, first: int, length: int, like: Tensor) -> Tensor:
        """Return cosines and sines of rotary positions (arXiv 2104.09864), [2, length, head_dim]."""
        dim = self.config.head_dim
        steps = self.config.theta ** -(torch.arange(0, dim, 2, device=like.device) / dim)
        angles = torch.arange(first, first + length, device=like.device)[:, None] * steps
        angles = torch.cat([angles, angles], dim=-1)
        return torch.stack([angles.cos(), angles.sin()]).to(like.dtype)


def _rotated(x: Tensor, rotations: Tensor) -> Tensor:
    """Return x [..., length, head_dim] rotated by its positions, the first half of a head against the second."""
    a, b = x.chunk(2, dim=-1)
    return x * rotations[0] + torch.cat([-b, a], dim=-1) * rotations[1]
