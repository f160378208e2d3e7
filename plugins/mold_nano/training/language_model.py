"""A Qwen3 decoder for training: the published architecture and parameter names, small.

Qwen3 (Qwen team 2025, arXiv 2505.09388): pre-norm blocks of grouped-query attention with RMS-normalised queries and
keys per head, rotary positions and SwiGLU; here with the output head tied to the embedding.
"""

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn import functional as F


@frozen(kw_only=True)
class Shape:
    """The sizes of the network."""

    vocabulary: int
    width: int = 192
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_width: int = 64
    ff_width: int = 512
    theta: float = 10_000.0
    eps: float = 1e-6
    context: int = 96


class RmsNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), self.eps).to(x.dtype)


def turns(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """Returns cosines and sines (L, head_width) of the rotary positions."""
    half = torch.arange(0, shape.head_width, 2) / shape.head_width
    angles = torch.arange(length)[:, None] * shape.theta**-half
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates x (B, H, L, D) by its positions, first half against second."""
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-b, a], dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.width, shape.heads * shape.head_width, bias=False)
        self.k_proj = nn.Linear(shape.width, shape.kv_heads * shape.head_width, bias=False)
        self.v_proj = nn.Linear(shape.width, shape.kv_heads * shape.head_width, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head_width, shape.width, bias=False)
        self.q_norm = RmsNorm(shape.head_width, shape.eps)
        self.k_norm = RmsNorm(shape.head_width, shape.eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        def split(y: Tensor, heads: int) -> Tensor:
            return y.unflatten(-1, (heads, self.shape.head_width)).transpose(1, 2)

        q = turned(self.q_norm(split(self.q_proj(x), self.shape.heads)), cos, sin)
        k = turned(self.k_norm(split(self.k_proj(x), self.shape.kv_heads)), cos, sin)
        v = split(self.v_proj(x), self.shape.kv_heads)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.ff_width, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.ff_width, bias=False)
        self.down_proj = nn.Linear(shape.ff_width, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = Mlp(shape)
        self.input_layernorm = RmsNorm(shape.width, shape.eps)
        self.post_attention_layernorm = RmsNorm(shape.width, shape.eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RmsNorm(shape.width, shape.eps)


class LanguageModel(nn.Module):
    """Ids (B, L) to the scores (B, L, vocabulary) of the next id."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                scale = 0.02 if "embed" in name else parameter.shape[1] ** -0.5
                nn.init.normal_(parameter, std=scale)
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.model.embed_tokens(ids)
        cos, sin = (table.to(x.dtype) for table in turns(self.shape, ids.shape[1]))
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.model.norm(x) @ self.model.embed_tokens.weight.T
