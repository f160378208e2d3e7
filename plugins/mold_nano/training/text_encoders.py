"""T5 and CLIP text encoders in miniature, with the parameter names of the published files."""

import math

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn import functional as F


@frozen(kw_only=True)
class T5Shape:
    """Sizes of the T5 encoder."""

    width: int = 128
    layers: int = 2
    heads: int = 4
    head_width: int = 32
    ff_width: int = 256
    buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6


@frozen(kw_only=True)
class ClipShape:
    """Sizes of the CLIP text encoder."""

    width: int = 64
    layers: int = 2
    heads: int = 2
    ff_width: int = 256
    positions: int = 77
    eps: float = 1e-5


class T5Norm(nn.Module):
    """Root-mean-square normalisation."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def relative_buckets(length: int, shape: T5Shape) -> Tensor:
    """Returns the bucket (L, L) of every distance between two tokens (Raffel et al. 2020, section 2.1)."""
    distance = torch.arange(length)[None, :] - torch.arange(length)[:, None]
    half = shape.buckets // 2
    exact = half // 2
    reach = distance.abs()
    far = exact + (
        torch.log(reach.clamp(min=1) / exact) / math.log(shape.max_distance / exact) * (half - exact)
    ).long().clamp(max=half - exact - 1)
    return (distance > 0) * half + torch.where(reach < exact, reach, far)


class T5SelfAttention(nn.Module):
    """T5's attention: no scale, a learnt bias for every distance."""

    def __init__(self, shape: T5Shape, with_bias: bool) -> None:
        super().__init__()
        inner = shape.heads * shape.head_width
        self.heads = shape.heads
        self.q = nn.Linear(shape.width, inner, bias=False)
        self.k = nn.Linear(shape.width, inner, bias=False)
        self.v = nn.Linear(shape.width, inner, bias=False)
        self.o = nn.Linear(inner, shape.width, bias=False)
        if with_bias:
            self.relative_attention_bias = nn.Embedding(shape.buckets, shape.heads)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        weights = torch.softmax(q @ k.transpose(-1, -2) + bias, dim=-1)
        return self.o((weights @ v).transpose(1, 2).flatten(2))


class T5Attention(nn.Module):
    """The attention half of a T5 block."""

    def __init__(self, shape: T5Shape, with_bias: bool) -> None:
        super().__init__()
        self.SelfAttention = T5SelfAttention(shape, with_bias)
        self.layer_norm = T5Norm(shape.width, shape.eps)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return x + self.SelfAttention(self.layer_norm(x), bias)


class T5Gated(nn.Module):
    """Gated feed-forward layer with the tanh GELU."""

    def __init__(self, shape: T5Shape) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(shape.width, shape.ff_width, bias=False)
        self.wi_1 = nn.Linear(shape.width, shape.ff_width, bias=False)
        self.wo = nn.Linear(shape.ff_width, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class T5Feed(nn.Module):
    """The feed-forward half of a T5 block."""

    def __init__(self, shape: T5Shape) -> None:
        super().__init__()
        self.DenseReluDense = T5Gated(shape)
        self.layer_norm = T5Norm(shape.width, shape.eps)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.DenseReluDense(self.layer_norm(x))


class T5Block(nn.Module):
    def __init__(self, shape: T5Shape, with_bias: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList((T5Attention(shape, with_bias), T5Feed(shape)))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.layer[1](self.layer[0](x, bias))


class T5Stack(nn.Module):
    def __init__(self, shape: T5Shape) -> None:
        super().__init__()
        self.block = nn.ModuleList(T5Block(shape, with_bias=i == 0) for i in range(shape.layers))
        self.final_layer_norm = T5Norm(shape.width, shape.eps)


class T5(nn.Module):
    """Token ids (B, L) to text states (B, L, width). Padding is read like any other token, as FLUX does."""

    def __init__(self, vocabulary: int, shape: T5Shape) -> None:
        super().__init__()
        self.shape = shape
        self.shared = nn.Embedding(vocabulary, shape.width)
        self.encoder = T5Stack(shape)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.shared(ids)
        table = self.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        bias = table(relative_buckets(ids.shape[1], self.shape)).permute(2, 0, 1)[None]
        for block in self.encoder.block:
            x = block(x, bias)
        return self.encoder.final_layer_norm(x)


class ClipAttention(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(shape.width, shape.width) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + mask, dim=-1)
        return self.out_proj((weights @ v).transpose(1, 2).flatten(2))


class ClipMlp(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.fc1 = nn.Linear(shape.width, shape.ff_width)
        self.fc2 = nn.Linear(shape.ff_width, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        return self.fc2(h * torch.sigmoid(1.702 * h))


class ClipLayer(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.self_attn = ClipAttention(shape)
        self.layer_norm1 = nn.LayerNorm(shape.width, eps=shape.eps)
        self.mlp = ClipMlp(shape)
        self.layer_norm2 = nn.LayerNorm(shape.width, eps=shape.eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class ClipEmbeddings(nn.Module):
    def __init__(self, vocabulary: int, shape: ClipShape) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, shape.width)
        self.position_embedding = nn.Embedding(shape.positions, shape.width)


class ClipEncoder(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ClipLayer(shape) for _ in range(shape.layers))


class ClipTextModel(nn.Module):
    def __init__(self, vocabulary: int, shape: ClipShape) -> None:
        super().__init__()
        self.embeddings = ClipEmbeddings(vocabulary, shape)
        self.encoder = ClipEncoder(shape)
        self.final_layer_norm = nn.LayerNorm(shape.width, eps=shape.eps)


class Clip(nn.Module):
    """Token ids (B, L) to the pooled state (B, width) at each text's first end token."""

    def __init__(self, vocabulary: int, end_id: int, shape: ClipShape) -> None:
        super().__init__()
        self.end_id = end_id
        self.text_model = ClipTextModel(vocabulary, shape)

    def forward(self, ids: Tensor) -> Tensor:
        model, length = self.text_model, ids.shape[1]
        x = model.embeddings.token_embedding(ids) + model.embeddings.position_embedding.weight[:length]
        mask = torch.full((length, length), float("-inf"), dtype=x.dtype).triu(1)
        for layer in model.encoder.layers:
            x = layer(x, mask)
        ends = (ids == self.end_id).int().argmax(dim=1)
        return model.final_layer_norm(x[torch.arange(len(ids)), ends])
