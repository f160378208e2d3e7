"""The FLUX.1 autoencoder in miniature, with the parameter names of the published `ae.safetensors`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LATENT_CHANNELS = 16
CHANNELS = (16, 32, 64, 64)
GROUPS = 8
EPS = 1e-6


class ChannelsLastNorm(nn.GroupNorm):
    """Group normalisation that takes and returns channels-last memory.

    PERF: on CPUs the backward pass of the channels-last kernel is four times slower than two copies and the other one.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


def norm(channels: int) -> nn.GroupNorm:
    return ChannelsLastNorm(GROUPS, channels, eps=EPS)


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a shortcut."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.norm1 = norm(inner)
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1)
        self.norm2 = norm(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1)
        if inner != outer:
            self.nin_shortcut = nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    """Single-head attention over all positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        weights = torch.softmax(q @ k.transpose(1, 2) * q.shape[-1] ** -0.5, dim=-1)
        return x + self.proj_out((weights @ v).transpose(1, 2).reshape(x.shape))


class Middle(nn.Module):
    """The block of lowest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels)
        self.attn_1 = Attention(channels)
        self.block_2 = ResnetBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    """Halves both sides; pads only right and bottom, as FLUX does."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles both sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks of one resolution and the step to the next."""

    def __init__(self, inner: int, outer: int, blocks: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(inner if i == 0 else outer, outer) for i in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        if hasattr(self, "downsample"):
            x = self.downsample(x)
        if hasattr(self, "upsample"):
            x = self.upsample(x)
        return x


class Encoder(nn.Module):
    """Pictures (B, 3, H, W) in -1..1 to the moments (B, 32, H/8, W/8) of their latents."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, CHANNELS[0], 3, padding=1)
        self.down = nn.ModuleList()
        inner = CHANNELS[0]
        for i, outer in enumerate(CHANNELS):
            level = Level(inner, outer, 1)
            if i < len(CHANNELS) - 1:
                level.downsample = Downsample(outer)
            self.down.append(level)
            inner = outer
        self.mid = Middle(inner)
        self.norm_out = norm(inner)
        self.conv_out = nn.Conv2d(inner, 2 * LATENT_CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latents (B, 16, H/8, W/8) to pictures (B, 3, H, W) in -1..1."""

    def __init__(self) -> None:
        super().__init__()
        inner = CHANNELS[-1]
        self.conv_in = nn.Conv2d(LATENT_CHANNELS, inner, 3, padding=1)
        self.mid = Middle(inner)
        levels = []
        for i, outer in reversed(list(enumerate(CHANNELS))):
            level = Level(inner, outer, 2)
            if i > 0:
                level.upsample = Upsample(outer)
            levels.append(level)
            inner = outer
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = norm(inner)
        self.conv_out = nn.Conv2d(inner, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Autoencoder(nn.Module):
    """Both halves; latents here are the raw ones, without FLUX's shift and scale."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder()

    def moments(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the mean and the log variance of the pictures' latents."""
        mean, logvar = self.encoder(pictures).chunk(2, dim=1)
        return mean, logvar.clamp(-20, 10)
