"""Qwen3 as a network that continues texts: one prefix is read once, then any number of continuations in step.

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
    """What a read text left in the attention layers: for each, keys and values [kv_heads, length, head_dim]."""

    length: int
    layers: tuple[tuple[Tensor, Tensor], ...]


class Continuations:
    """Texts that go on from one prefix, all of one length: their own keys and values, layer by layer.

    The prefix is kept once, however many texts there are.
    """

    def __init__(self, prefix: Prefix, count: int, room: int) -> None:
        """`room` is how many tokens each text may get."""
        self.prefix = prefix
        self.length = 0
        self.room = room
        self.turns: Tensor | None = None
        keys = prefix.layers[0][0]
        shape = (count, keys.shape[0], room, keys.shape[2])
        self._own = [(keys.new_empty(shape), keys.new_empty(shape)) for _ in prefix.layers]

    def add(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Note one token's keys and values [texts, kv_heads, 1, head_dim]; return all of the texts' own."""
        end = self.length + 1
        for memory, new in zip(self._own[layer], (keys, values), strict=True):
            memory[:, :, self.length : end] = new
        own_keys, own_values = self._own[layer]
        return own_keys[:, :, :end], own_values[:, :, :end]

    def keep(self, texts: Tensor) -> None:
        """Go on with these texts only: their numbers, int64 [texts]."""
        self._own = [(keys[texts], values[texts]) for keys, values in self._own]


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

    def read(self, x: Tensor, turns: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the output for a text x [1, length, width], and its keys and values [kv_heads, length, head_dim]."""
        queries, keys, values = self._project(x, turns)
        out = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
        # PERF: head by head in memory, or every later token's products would copy them first: ten times as long.
        kept = keys[0].contiguous(), values[0].contiguous()
        return self.o_proj(out.transpose(1, 2).flatten(2)), kept

    def go_on(self, x: Tensor, turns: Tensor, layer: int, texts: Continuations) -> Tensor:
        """Return the output for the next token of each text, x [texts, 1, width]."""
        queries, keys, values = self._project(x, turns)
        own_keys, own_values = texts.add(layer, keys, values)
        prefix_keys, prefix_values = texts.prefix.layers[layer]
        count, group = len(x), self.config.heads // self.config.kv_heads
        grouped = queries.view(count, self.config.kv_heads, group, -1) * self.config.head_dim**-0.5
        # PERF: the prefix is one matrix for all texts, so its part is one product and not one for each text.
        together = grouped.transpose(0, 1).flatten(1, 2)  # [kv_heads, texts * group, head_dim]
        to_prefix = (together @ prefix_keys.transpose(1, 2)).unflatten(1, (count, group)).transpose(0, 1)
        scores = torch.cat([to_prefix, grouped @ own_keys.transpose(2, 3)], dim=-1)
        weights = scores.softmax(-1, dtype=torch.float32).to(x.dtype)
        of_prefix, of_own = weights.split([texts.prefix.length, weights.shape[-1] - texts.prefix.length], dim=-1)
        out = (of_prefix.transpose(0, 1).flatten(1, 2) @ prefix_values).unflatten(1, (count, group)).transpose(0, 1)
        out = out + of_own @ own_values
        output: Tensor = self.o_proj(out.reshape(count, 1, -1))
        return output

    def _project(self, x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        config = self.config
        queries = self.q_norm(self.q_proj(x).unflatten(-1, (config.heads, config.head_dim))).transpose(1, 2)
        keys = self.k_norm(self.k_proj(x).unflatten(-1, (config.kv_heads, config.head_dim))).transpose(1, 2)
        values = self.v_proj(x).unflatten(-1, (config.kv_heads, config.head_dim)).transpose(1, 2)
        return _turned(queries, turns), _turned(keys, turns), values


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
    """Everything below the output layer."""

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
    """The language model. Without `lm_head` (a tied model that is not finished) it has no scores to give."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head: nn.Module | None = None if config.tied else nn.Linear(config.width, config.vocabulary, bias=False)

    def read(self, ids: Tensor) -> tuple[Tensor, Prefix]:
        """Return the scores [1, vocabulary] of what follows a text, ids int64 [length], and the text as a prefix."""
        x = self.model.embed_tokens(ids[None])
        turns = self._turns(0, len(ids), x)
        kept = []
        for layer in self.model.blocks:
            check_cancelled()
            out, pair = layer.self_attn.read(layer.input_layernorm(x), turns)
            kept.append(pair)
            x = x + out
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return self._scores(x[:, -1]), Prefix(len(ids), tuple(kept))

    def go_on(self, ids: Tensor, texts: Continuations) -> Tensor:
        """Add one token to each text, ids int64 [texts]; return the scores [texts, vocabulary] of the next."""
        x = self.model.embed_tokens(ids[:, None])
        if texts.turns is None:  # PERF: for all tokens at once; for each alone it takes as long as its attention
            texts.turns = self._turns(texts.prefix.length, texts.room, x)
        turns = texts.turns[:, texts.length : texts.length + 1]
        for number, layer in enumerate(self.model.blocks):
            x = x + layer.self_attn.go_on(layer.input_layernorm(x), turns, number, texts)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        texts.length += 1
        return self._scores(x[:, -1])

    def _scores(self, x: Tensor) -> Tensor:
        assert self.lm_head is not None
        scores: Tensor = self.lm_head(self.model.norm(x))
        return scores.float()

    def _turns(self, first: int, length: int, like: Tensor) -> Tensor:
        """Return cosines and sines of rotary positions (arXiv 2104.09864), [2, length, head_dim]."""
        dim = self.config.head_dim
        steps = self.config.theta ** -(torch.arange(0, dim, 2, device=like.device) / dim)
        angles = torch.arange(first, first + length, device=like.device)[:, None] * steps
        angles = torch.cat([angles, angles], dim=-1)
        return torch.stack([angles.cos(), angles.sin()]).to(like.dtype)


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """Return x [..., length, head_dim] turned by its positions, the first half of a head against the second."""
    a, b = x.chunk(2, dim=-1)
    return x * turns[0] + torch.cat([-b, a], dim=-1) * turns[1]
