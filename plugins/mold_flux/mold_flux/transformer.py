"""The FLUX.1 transformer: noisy latents and a prompt in, the velocity towards the image out.

The architecture is the one Black Forest Labs published with FLUX.1 (model card black-forest-labs/FLUX.1-dev, after
Esser et al. 2024, "Scaling Rectified Flow Transformers", arXiv 2403.03206): double blocks, in which text and image
tokens have weights of their own and attend together; then single blocks over both, with attention and MLP side by
side (Dehghani et al. 2023, arXiv 2302.05442); everywhere shift, scale and gate come from timestep, guidance and
pooled prompt (adaLN, Peebles & Xie 2022, arXiv 2212.09748). Parameter names are those of the official files.

A step runs only the blocks: `prepare` computes everything that is constant over the steps, including the modulation of
every block for every step, so a quarter of FLUX's weights is read once per image instead of once per step.

NOTE: no code here reads the weight of a Linear, because packed (quantised) layers may replace any of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from mold_core.weights import Compilation
    from mold_flux.step_cache import FirstBlockCache

__all__ = ["FLUX_DEV", "FLUX_SCHNELL", "Conditioning", "FluxConfig", "FluxTransformer", "rope"]

TIME_CHANNELS = 256

_LARGEST_FP16 = torch.finfo(torch.float16).max


@frozen(kw_only=True)
class FluxConfig:
    """The sizes of one FLUX transformer. The defaults are FLUX.1-dev's."""

    in_channels: int = 64
    out_channels: int = 64
    hidden_size: int = 3072
    heads: int = 24
    depth_double: int = 19
    depth_single: int = 38
    context_dim: int = 4096
    pooled_dim: int = 768
    axes_dim: tuple[int, ...] = field(default=(16, 56, 56), converter=tuple)
    theta: int = 10_000
    guidance_embed: bool = True
    mlp_ratio: float = 4.0

    def __attrs_post_init__(self) -> None:
        if self.hidden_size % self.heads or sum(self.axes_dim) != self.head_dim or any(d % 2 for d in self.axes_dim):
            raise ValueError(
                f"rope axes {self.axes_dim} must be even and add up to the head size,"
                f" {self.hidden_size} channels / {self.heads} heads"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.heads

    @property
    def mlp_size(self) -> int:
        return int(self.hidden_size * self.mlp_ratio)


FLUX_DEV = FluxConfig()
FLUX_SCHNELL = FluxConfig(guidance_embed=False)


@functools.lru_cache(maxsize=8)
def rope(
    config: FluxConfig,
    text_tokens: int,
    height: int,
    width: int,
    device: torch.device | str = "cpu",
    grid: tuple[int, int] | None = None,
    reference: tuple[int, int] | None = None,
) -> Tensor:
    """Return rotations [text_tokens + height*width, head_dim / 2], complex64, cached by shape.

    A text token is at (0, 0, 0), an image token at (0, row, column); each axis rotates its share of a head's channel
    pairs (RoFormer, arXiv 2104.09864). With `grid` the image's tokens are spread over so many rows and columns
    (arXiv 2306.15595). `reference` is the height and width of an image to edit, whose tokens follow: they are at
    (1, row, column). Angles are computed in fp64.
    """
    with torch.inference_mode(False):  # a tensor from inference mode cannot be used in training
        rows, columns = grid or (height, width)
        images = [_positions(0, _spread(height, rows), _spread(width, columns))]
        if reference is not None:
            images.append(_positions(1, *(torch.arange(side).double() for side in reference)))
        positions = F.pad(torch.cat(images), (0, 0, text_tokens, 0))
        shares = [config.theta ** -(torch.arange(0, dim, 2).double() / dim) for dim in config.axes_dim]
        angles = torch.cat([positions[:, [axis]] * share for axis, share in enumerate(shares)], dim=-1)
        return torch.polar(torch.ones_like(angles), angles).to(torch.complex64).to(device)


def _positions(image: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Return where the tokens of an image are [rows * columns, 3], fp64: its number, the row, the column."""
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([torch.full_like(row, image), row, column], dim=-1).flatten(0, 1)


def _spread(count: int, over: int) -> Tensor:
    """Return `count` positions, evenly spread over `over` of them: 0, 1, 2, … if the numbers are equal."""
    return (torch.arange(count).double() + 0.5) * (over / count) - 0.5


def sinusoid(t: Tensor, channels: int = TIME_CHANNELS, period: float = 10_000) -> Tensor:
    """Return [*t.shape, channels] fp32: cosines, then sines, of 1000 t at geometrically falling frequencies."""
    half = channels // 2
    frequencies = period ** -(torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = (1000 * t.float())[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return layer-normed x [B, T, H] times scale plus shift, both [H] or [B, 1, H]; scale includes its added 1."""
    if scale.ndim == 1:  # PERF: one kernel if the whole batch shares its modulation
        return F.layer_norm(x, scale.shape, scale, shift, eps=1e-6)
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), scale)


def attention(query_key: Tensor, value: Tensor, rope: Tensor) -> Tensor:
    """Return softmax attention [B, T, H] of query_key [B, T, 2, heads, D], fp32, and value [B, T, heads, D].

    rope [T, D / 2], complex, or from `_real`.
    """
    pairs = query_key.unflatten(-1, (-1, 2))
    if rope.is_complex():
        turned = torch.view_as_real(torch.view_as_complex(pairs) * rope[:, None, None])
    else:
        # PERF: one kernel up to the conversion to attention's dtype; compilers would write a stack to memory in fp32.
        turned = pairs * rope[0][:, None, None] + pairs.flip(-1) * rope[1][:, None, None]
    query, key = turned.to(value.dtype).flatten(-2).unbind(2)
    out = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return out.transpose(1, 2).flatten(2)


def _real(rope: Tensor) -> Tensor:
    """Return the factors of pairs, and of swapped pairs [2, T, D / 2, 2]."""
    output: Tensor = (
        torch.stack([rope.real, rope.real, -rope.imag, rope.imag], dim=-1).unflatten(-1, (2, 2)).movedim(-2, 0)
    )
    return output


class Gelu(nn.Module):
    """GELU in its tanh form (arXiv 1606.08415)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cpu and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # PERF: 0.5 (1 + tanh u) = sigmoid(2u), and on CPUs this takes half the time of torch's own, in fp32 too.
            wide = x.float()
            slope = torch.tensor(2 * math.sqrt(2 / math.pi))
            gate = torch.addcmul(slope, wide, wide, value=0.044715 * slope.item()).mul_(wide).sigmoid_()
            return gate.mul_(wide).to(x.dtype)
        return F.gelu(x, approximate="tanh")


class Modulation(nn.Module):
    """Shifts, scales and gates of one block, from the conditioning vector."""

    def __init__(self, hidden_size: int, blocks: int) -> None:
        super().__init__()
        self.lin = nn.Linear(hidden_size, 3 * blocks * hidden_size)
        self.blocks = blocks

    def forward(self, vector: Tensor) -> Tensor:
        """Return [..., 3 * blocks, 1, H]: (shift, 1 + scale, gate) for each residual branch; vector is silu'd."""
        factors = self.lin(vector).unflatten(-1, (3 * self.blocks, 1, -1))
        output: Tensor = factors + factors.new_tensor([0.0, 1.0, 0.0] * self.blocks)[:, None, None]
        return output


class Scale(nn.Module):
    """The channel scales of one RMS norm (arXiv 1910.07467), under the official name."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))


class QueryKeyNorm(nn.Module):
    """RMS-normalises queries and keys in fp32, head by head."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query_norm = Scale(dim)
        self.key_norm = Scale(dim)

    def forward(self, query_key: Tensor) -> Tensor:
        """Return fp32 [B, T, 2, heads, D] for query_key [B, T, 2, heads, D]."""
        x = query_key.float()
        root = torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        return x * root * torch.stack([self.query_norm.scale, self.key_norm.scale])[:, None].float()


class SelfAttention(nn.Module):
    """The attention layers of one stream in a double block."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.norm = QueryKeyNorm(hidden_size // heads)
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.heads = heads

    def query_key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised queries and keys [B, T, 2, heads, D] in fp32, and values [B, T, heads, D]."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        return self.norm(qkv[:, :, :2]), qkv[:, :, 2]


class DoubleBlock(nn.Module):
    """Separate weights for text and image tokens, which attend together."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        hidden, heads = config.hidden_size, config.heads
        self.img_mod = Modulation(hidden, 2)
        self.img_attn = SelfAttention(hidden, heads)
        self.img_mlp = nn.Sequential(nn.Linear(hidden, config.mlp_size), Gelu(), nn.Linear(config.mlp_size, hidden))
        self.txt_mod = Modulation(hidden, 2)
        self.txt_attn = SelfAttention(hidden, heads)
        self.txt_mlp = nn.Sequential(nn.Linear(hidden, config.mlp_size), Gelu(), nn.Linear(config.mlp_size, hidden))

    def modulation(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        return self.img_mod(vector), self.txt_mod(vector)

    def forward(
        self, img: Tensor, txt: Tensor, modulation: tuple[Sequence[Tensor], Sequence[Tensor]], rope: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the next (img [B, N, H], txt [B, L, H])."""
        (i_shift, i_scale, i_gate, *i_mlp), (t_shift, t_scale, t_gate, *t_mlp) = modulation
        t_query_key, t_value = self.txt_attn.query_key_value(modulated(txt, t_shift, t_scale))
        i_query_key, i_value = self.img_attn.query_key_value(modulated(img, i_shift, i_scale))
        both = attention(torch.cat([t_query_key, i_query_key], 1), torch.cat([t_value, i_value], 1), rope)
        txt_out, img_out = both.split([txt.shape[1], img.shape[1]], dim=1)
        img = torch.addcmul(img, i_gate, self.img_attn.proj(img_out))
        txt = torch.addcmul(txt, t_gate, self.txt_attn.proj(txt_out))
        img = torch.addcmul(img, i_mlp[2], self.img_mlp(modulated(img, i_mlp[0], i_mlp[1])))
        txt = torch.addcmul(txt, t_mlp[2], self.txt_mlp(modulated(txt, t_mlp[0], t_mlp[1])))
        return clamped(img), clamped(txt)


def clamped(x: Tensor) -> Tensor:
    """Return residuals clamped to the range of fp16; other dtypes are unchanged."""
    return x.clamp(-_LARGEST_FP16, _LARGEST_FP16) if x.dtype == torch.float16 else x


class SingleBlock(nn.Module):
    """Attention and MLP side by side, over text and image tokens alike."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.linear1 = nn.Linear(hidden, 3 * hidden + config.mlp_size)
        self.linear2 = nn.Linear(hidden + config.mlp_size, hidden)
        self.norm = QueryKeyNorm(config.head_dim)
        self.modulation = Modulation(hidden, 1)
        self.gelu = Gelu()
        self.heads = config.heads
        self.widths = [3 * hidden, config.mlp_size]

    def forward(self, x: Tensor, modulation: Sequence[Tensor], rope: Tensor) -> Tensor:
        """Return the next x [B, L + N, H]."""
        shift, scale, gate = modulation
        qkv, mlp = self.linear1(modulated(x, shift, scale)).split(self.widths, dim=-1)
        qkv = qkv.unflatten(-1, (3, self.heads, -1))
        attended = attention(self.norm(qkv[:, :, :2]), qkv[:, :, 2], rope)
        return clamped(torch.addcmul(x, gate, self.linear2(torch.cat([attended, self.gelu(mlp)], dim=-1))))


class Embedder(nn.Module):
    """A two-layer perceptron with silu, for timestep, guidance and pooled prompt."""

    def __init__(self, in_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.in_layer = nn.Linear(in_dim, hidden_size)
        self.out_layer = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.out_layer(F.silu(self.in_layer(x)))
        return output


class FinalLayer(nn.Module):
    """The last modulated norm, and the projection to latent channels."""

    def __init__(self, hidden_size: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def modulation(self, vector: Tensor) -> Tensor:
        """Return [..., 2, 1, H], (shift, 1 + scale), for a vector that is silu'd."""
        factors = self.adaLN_modulation[1](vector).unflatten(-1, (2, 1, -1))
        output: Tensor = factors + factors.new_tensor([0.0, 1.0])[:, None, None]
        return output

    def forward(self, x: Tensor, modulation: Sequence[Tensor]) -> Tensor:
        output: Tensor = self.linear(modulated(x, *modulation))
        return output


@frozen(kw_only=True, eq=False)
class Conditioning:
    """Inputs that are constant over the steps: the result of `FluxTransformer.prepare`.

    The first dimension of modulations is the step: [S, B, 3 or 6, 1, H], or [S, 3 or 6, H] if they are the same for the
    whole batch. `channels` [B, N, C] follow those of every token, `reference` [B, M, C] are tokens after the image's.
    """

    txt: Tensor
    rope: Tensor
    double: list[tuple[Tensor, Tensor]]
    single: list[Tensor]
    final: Tensor
    channels: Tensor | None = None
    reference: Tensor | None = None

    @property
    def steps(self) -> int:
        return self.final.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the steps compute in."""
        return self.txt.dtype

    def select(self, images: slice) -> Conditioning:
        """Return the same for some images of the batch."""
        some = evolve(
            self,
            txt=self.txt[images],
            channels=None if self.channels is None else self.channels[images],
            reference=None if self.reference is None else self.reference[images],
        )
        if self.final.ndim == 3:  # modulations without a batch dimension are everybody's
            return some
        return evolve(
            some,
            double=[(image[:, images], text[:, images]) for image, text in self.double],
            single=[modulation[:, images] for modulation in self.single],
            final=self.final[:, images],
        )


class FluxTransformer(nn.Module):
    """FLUX.1. `forward` is for training; `prepare` and, for each step, `step` for sampling. Both compute the same.

    With `real_rope` blocks get the rotations as real numbers, for compilers without complex numbers.
    """

    real_rope = False
    compilation: Compilation | None = None

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden_size
        self.img_in = nn.Linear(config.in_channels, hidden)
        self.txt_in = nn.Linear(config.context_dim, hidden)
        self.time_in = Embedder(TIME_CHANNELS, hidden)
        self.vector_in = Embedder(config.pooled_dim, hidden)
        if config.guidance_embed:
            self.guidance_in = Embedder(TIME_CHANNELS, hidden)
        self.double_blocks = nn.ModuleList(DoubleBlock(config) for _ in range(config.depth_double))
        self.single_blocks = nn.ModuleList(SingleBlock(config) for _ in range(config.depth_single))
        self.final_layer = FinalLayer(hidden, config.out_channels)

    def forward(
        self,
        img: Tensor,
        txt: Tensor,
        pooled: Tensor,
        timestep: Tensor,
        guidance: Tensor | None,
        rope: Tensor,
    ) -> Tensor:
        """Return the velocity [B, N, out_channels]: noise minus image, for an image at noise level `timestep`.

        img [B, N, in_channels] packed latents, txt [B, L, context_dim], pooled [B, pooled_dim], all of the dtype to
        compute in; timestep [B] in 0 (image) to 1 (noise); guidance [B], or None without `config.guidance_embed`;
        rope from `rope(...)` for L text tokens and N image tokens.
        """
        return self.step(img, self.prepare(txt, pooled, timestep[None], guidance, rope), 0)

    def prepare(
        self, txt: Tensor, pooled: Tensor, timesteps: Tensor, guidance: Tensor | None, rope: Tensor
    ) -> Conditioning:
        """Return what is constant over the steps.

        timesteps [S] shared by the batch, or [S, B]; the rest as in `forward`. pooled and guidance of a single image
        apply to all.
        """
        if (guidance is not None) != self.config.guidance_embed:
            raise ValueError(f"this transformer {'needs' if guidance is None else 'takes no'} guidance")
        vector = self.vector_in(pooled)
        if guidance is not None:
            vector = vector + self.guidance_in(sinusoid(guidance).to(pooled.dtype))
        times = timesteps if timesteps.ndim == 2 else timesteps[:, None]
        vector = F.silu(self.time_in(sinusoid(times).to(pooled.dtype)) + vector)
        if vector.shape[1] == 1:
            vector = vector.squeeze(1)  # modulations that the whole batch shares have no batch dimension

        def shaped(modulation: Tensor) -> Tensor:
            return modulation.squeeze(-2) if vector.ndim == 2 else modulation

        doubles = [block.modulation(vector) for block in self._double_blocks]
        return Conditioning(
            txt=self.txt_in(txt),
            rope=rope,
            double=[(shaped(image), shaped(text)) for image, text in doubles],
            single=[shaped(block.modulation(vector)) for block in self._single_blocks],
            final=shaped(self.final_layer.modulation(vector)),
        )

    @property
    def _double_blocks(self) -> Iterable[DoubleBlock]:
        return cast("Iterable[DoubleBlock]", self.double_blocks)

    @property
    def _single_blocks(self) -> Iterable[SingleBlock]:
        return cast("Iterable[SingleBlock]", self.single_blocks)

    def stream_units(self) -> list[nn.Module]:
        """Return the submodules that can be streamed, in the order of their use.

        `prepare` uses the modulations, `step` the rest of each block.
        """
        modulations = [
            *(modulation for double in self._double_blocks for modulation in (double.img_mod, double.txt_mod)),
            *(single.modulation for single in self._single_blocks),
        ]
        return [*modulations, *self.double_blocks, *self.single_blocks]

    def step(self, img: Tensor, conditioning: Conditioning, index: int, cache: FirstBlockCache | None = None) -> Tensor:
        """Return the velocity [B, N, out_channels] at a prepared timestep, by its index.

        With a `cache`, all blocks but the first are left out where they would change what they changed before.
        """
        txt, rope, dim = conditioning.txt, conditioning.rope, -2 if conditioning.final.ndim == 3 else -3
        rope = _real(rope) if self.real_rope else rope
        tokens = img.shape[1]
        if conditioning.channels is not None:
            img = torch.cat([img, conditioning.channels], dim=2)
        if conditioning.reference is not None:
            img = torch.cat([img, conditioning.reference], dim=1)
        x = start = self.img_in(img)
        after_first = change = None
        for double, (image, text) in zip(self.double_blocks, conditioning.double, strict=True):
            x, txt = double(x, txt, (image[index].unbind(dim), text[index].unbind(dim)), rope)
            if cache is not None and after_first is None:
                after_first, change = x, cache.change_after(x - start)
                if change is not None:
                    break
        if change is not None:
            x = x + change
        else:
            x = torch.cat([txt, x], dim=1)
            for single, modulation in zip(self.single_blocks, conditioning.single, strict=True):
                x = single(x, modulation[index].unbind(dim), rope)
            x = x[:, txt.shape[1] :]
            if cache is not None and after_first is not None:
                cache.keep(x - after_first)
        output: Tensor = self.final_layer(x[:, :tokens], conditioning.final[index].unbind(dim))
        return output
