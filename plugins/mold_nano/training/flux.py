"""The FLUX.1 transformer in miniature, written for fast training on CPUs, with the published parameter names."""

import math

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn import functional as F


@frozen(kw_only=True)
class FluxShape:
    """Sizes of the transformer."""

    channels: int = 64
    text_width: int = 128
    pooled_width: int = 64
    width: int = 160
    heads: int = 4
    axes: tuple[int, int, int] = (8, 16, 16)
    double_blocks: int = 2
    single_blocks: int = 4
    theta: float = 10000.0


EPS = 1e-6
HEAD_SCALE = 1.25
TIME_WIDTH = 256


def packed(latents: Tensor) -> Tensor:
    """Turns latents (B, C, H, W) into tokens (B, H/2 * W/2, 4 C) of 2x2 patches."""
    b, c, h, w = latents.shape
    return latents.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, c * 4)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """Turns tokens back into latents (B, C, height, width)."""
    b, _, c = tokens.shape
    grid = tokens.view(b, height // 2, width // 2, c // 4, 2, 2)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(b, c // 4, height, width)


def rotations(text_tokens: int, rows: int, columns: int, shape: FluxShape) -> tuple[Tensor, Tensor]:
    """Returns the cosines and sines (L, head width / 2) of rotary positions: text at 0, patches at (0, row, column)."""
    positions = torch.zeros(text_tokens + rows * columns, 3, dtype=torch.float64)
    positions[text_tokens:, 1] = torch.arange(rows).repeat_interleave(columns)
    positions[text_tokens:, 2] = torch.arange(columns).repeat(rows)
    angles = [
        positions[:, axis, None] * shape.theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        for axis, width in enumerate(shape.axes)
    ]
    stacked = torch.cat(angles, dim=1)
    return stacked.cos(), stacked.sin()


def time_features(t: Tensor) -> Tensor:
    """Returns the sinusoidal features (B, 256) of times in 0..1."""
    half = TIME_WIDTH // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    angles = 1000 * t.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=1)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Returns the normalised states, scaled and shifted by the conditioning."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=EPS), 1 + scale)


class Rotary:
    """The rotary tables of one text length and picture size, for queries and keys (B, L, 2, heads, head width)."""

    def __init__(self, text_tokens: int, rows: int, columns: int, shape: FluxShape, dtype: torch.dtype) -> None:
        cos, sin = rotations(text_tokens, rows, columns, shape)
        self.cos = cos.repeat_interleave(2, dim=1)[None, :, None, None].to(dtype)
        self.sin = torch.stack((-sin, sin), dim=2).flatten(1)[None, :, None, None].to(dtype)

    def turn(self, x: Tensor) -> Tensor:
        """Turns every (even, odd) pair by its position."""
        return torch.addcmul(x * self.cos, swapped(x), self.sin)

    def turn_back(self, x: Tensor) -> Tensor:
        return torch.addcmul(x * self.cos, swapped(x), self.sin, value=-1)


def swapped(x: Tensor) -> Tensor:
    """Swaps the even and odd elements of the last axis."""
    return x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


class NormedTurn(torch.autograd.Function):
    """Root-mean-square norm and rotation of queries and keys together.

    PERF: autograd's own chain of elementwise operations takes a sixth of a training step on a CPU.
    """

    @staticmethod
    def forward(ctx, x: Tensor, scale: float, rotary: Rotary) -> Tensor:
        inverse = x.shape[-1] ** 0.5 / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + EPS)
        normed = x * inverse
        ctx.save_for_backward(normed, inverse)
        ctx.scale, ctx.rotary = scale, rotary
        return rotary.turn(normed * scale)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        normed, inverse = ctx.saved_tensors
        back = ctx.rotary.turn_back(gradient)
        along = (back * normed).mean(dim=-1, keepdim=True)
        return torch.addcmul(back, normed, along, value=-1) * (inverse * ctx.scale), None, None


class Scale(nn.Module):
    """The scale of a root-mean-square norm over each head: a constant here, which keeps training fast."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.full((width,), HEAD_SCALE))


class QueryKeyNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_norm = Scale(width)
        self.key_norm = Scale(width)


class Embedder(nn.Module):
    """Two layers with SiLU between them."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.in_layer = nn.Linear(inner, outer)
        self.out_layer = nn.Linear(outer, outer)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(F.silu(self.in_layer(x)))


class Modulation(nn.Module):
    """The conditioning's shifts, scales and gates, each (B, 1, width)."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.lin = nn.Linear(width, parts * width)

    def forward(self, vec: Tensor) -> tuple[Tensor, ...]:
        return self.lin(vec)[:, None].chunk(self.parts, dim=-1)


class StreamAttention(nn.Module):
    """The attention weights of one stream of a double block."""

    def __init__(self, shape: FluxShape) -> None:
        super().__init__()
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.norm = QueryKeyNorm(shape.width // shape.heads)
        self.proj = nn.Linear(shape.width, shape.width)


def attention(qkv: Tensor, heads: int, rotary: Rotary) -> Tensor:
    """Attends with fused queries, keys and values (B, L, 3 * width) and returns (B, L, width)."""
    qkv = qkv.unflatten(-1, (3, heads, -1))
    q, k = NormedTurn.apply(qkv[:, :, :2], HEAD_SCALE, rotary).permute(2, 0, 3, 1, 4).unbind(0)
    weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), dim=-1)
    return (weights @ qkv[:, :, 2].transpose(1, 2)).transpose(1, 2).flatten(2)


class DoubleBlock(nn.Module):
    """Picture and text with weights of their own, attending to each other."""

    def __init__(self, shape: FluxShape) -> None:
        super().__init__()
        self.heads = shape.heads
        for stream in ("img", "txt"):
            setattr(self, f"{stream}_mod", Modulation(shape.width, 6))
            setattr(self, f"{stream}_attn", StreamAttention(shape))
            setattr(self, f"{stream}_mlp", nn.Sequential(
                nn.Linear(shape.width, 4 * shape.width), nn.GELU("tanh"), nn.Linear(4 * shape.width, shape.width)
            ))  # fmt: skip

    def forward(self, img: Tensor, txt: Tensor, vec: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
        img_mod, txt_mod = self.img_mod(vec), self.txt_mod(vec)
        qkv = torch.cat(
            (
                self.txt_attn.qkv(modulated(txt, *txt_mod[:2])),
                self.img_attn.qkv(modulated(img, *img_mod[:2])),
            ),
            dim=1,
        )
        mixed = attention(qkv, self.heads, rotary)
        split = txt.shape[1]
        txt = torch.addcmul(txt, txt_mod[2], self.txt_attn.proj(mixed[:, :split]))
        img = torch.addcmul(img, img_mod[2], self.img_attn.proj(mixed[:, split:]))
        txt = torch.addcmul(txt, txt_mod[5], self.txt_mlp(modulated(txt, *txt_mod[3:5])))
        img = torch.addcmul(img, img_mod[5], self.img_mlp(modulated(img, *img_mod[3:5])))
        return img, txt


class SingleBlock(nn.Module):
    """Picture and text in one stream; attention and feed-forward side by side."""

    def __init__(self, shape: FluxShape) -> None:
        super().__init__()
        self.heads, self.width = shape.heads, shape.width
        self.linear1 = nn.Linear(shape.width, 7 * shape.width)
        self.linear2 = nn.Linear(5 * shape.width, shape.width)
        self.norm = QueryKeyNorm(shape.width // shape.heads)
        self.modulation = Modulation(shape.width, 3)

    def forward(self, x: Tensor, vec: Tensor, rotary: Rotary) -> Tensor:
        shift, scale, gate = self.modulation(vec)
        qkv, mlp = self.linear1(modulated(x, shift, scale)).split((3 * self.width, 4 * self.width), dim=-1)
        mixed = attention(qkv, self.heads, rotary)
        return torch.addcmul(x, gate, self.linear2(torch.cat((mixed, F.gelu(mlp, approximate="tanh")), dim=-1)))


class FinalLayer(nn.Module):
    def __init__(self, shape: FluxShape) -> None:
        super().__init__()
        self.linear = nn.Linear(shape.width, shape.channels)
        self.adaLN_modulation = nn.Sequential(nn.Identity(), nn.Linear(shape.width, 2 * shape.width))

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(vec)[:, None].chunk(2, dim=-1)
        return self.linear(modulated(x, shift, scale))


class Flux(nn.Module):
    """Predicts the velocity (B, L, 64) of noisy tokens at times in 0..1 (1 is pure noise)."""

    def __init__(self, shape: FluxShape) -> None:
        super().__init__()
        self.shape = shape
        self.img_in = nn.Linear(shape.channels, shape.width)
        self.txt_in = nn.Linear(shape.text_width, shape.width)
        self.time_in = Embedder(TIME_WIDTH, shape.width)
        self.vector_in = Embedder(shape.pooled_width, shape.width)
        self.double_blocks = nn.ModuleList(DoubleBlock(shape) for _ in range(shape.double_blocks))
        self.single_blocks = nn.ModuleList(SingleBlock(shape) for _ in range(shape.single_blocks))
        self.final_layer = FinalLayer(shape)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Starts every block half open and the output at zero."""
        for name, module in self.named_modules():
            if isinstance(module, Modulation):
                module.lin.weight.zero_()
                parts = module.lin.bias.zero_().view(module.parts, -1)
                parts[2::3] = 0.5
            elif name.startswith("final_layer") and isinstance(module, nn.Linear):
                module.weight.zero_()
                module.bias.zero_()

    def forward(self, img: Tensor, txt: Tensor, pooled: Tensor, t: Tensor, rotary: Rotary) -> Tensor:
        return self.with_middle(img, txt, pooled, t, rotary)[0]

    def with_middle(self, img: Tensor, txt: Tensor, pooled: Tensor, t: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
        """Returns the velocity and the picture's states (B, L, width) half way through the single blocks."""
        vec = F.silu(self.time_in(time_features(t).to(img.dtype)) + self.vector_in(pooled))
        img, txt = self.img_in(img), self.txt_in(txt)
        for block in self.double_blocks:
            img, txt = block(img, txt, vec, rotary)
        x = torch.cat((txt, img), dim=1)
        split, half = txt.shape[1], len(self.single_blocks) // 2
        for block in self.single_blocks[:half]:
            x = block(x, vec, rotary)
        middle = x[:, split:]
        for block in self.single_blocks[half:]:
            x = block(x, vec, rotary)
        return self.final_layer(x[:, split:], vec), middle
