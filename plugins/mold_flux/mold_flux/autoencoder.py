"""The FLUX.1 autoencoder: images to latents of an eighth of the size, and back.

The convolutional network of latent diffusion (Rombach et al. 2022, arXiv 2112.10752) with FLUX's 16 latent channels;
parameter names are those of ae.safetensors.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from attrs import field, frozen
from torch import Tensor, nn
from torch.nn import functional as F

from mold_flux.group_norms import normalized_like

__all__ = ["FLUX_AE", "Autoencoder", "AutoencoderConfig"]


@frozen(kw_only=True)
class AutoencoderConfig:
    """The sizes of one autoencoder. The defaults are FLUX.1's."""

    block_channels: tuple[int, ...] = field(default=(128, 256, 512, 512), converter=tuple)
    layers_per_block: int = 2
    latent_channels: int = 16
    groups: int = 32
    scale: float = 0.3611
    shift: float = 0.1159

    @property
    def factor(self) -> int:
        """Pixels per latent, along each side."""
        return int(2 ** (len(self.block_channels) - 1))


FLUX_AE = AutoencoderConfig()


def silu(x: Tensor) -> Tensor:
    """Return x times its sigmoid. Without gradients it overwrites x, to save memory at full size."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions, each after group norm and silu, around a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=1e-6)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=1e-6)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)
        self.widens = in_channels != out_channels

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(silu(self.norm1(x)))
        hidden = self.conv2(silu(self.norm2(hidden)))
        output: Tensor = (self.nin_shortcut(x) if self.widens else x) + hidden
        return output


class PixelAttention(nn.Module):
    """Single-headed attention among all pixels."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        query, key, value = (
            projection(normed).flatten(2).transpose(1, 2)[:, None] for projection in (self.q, self.k, self.v)
        )
        out = F.scaled_dot_product_attention(query, key, value)
        output: Tensor = x + self.proj_out(out[:, 0].transpose(1, 2).unflatten(2, x.shape[2:]))
        return output


class Middle(nn.Module):
    """The blocks at the lowest resolution."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, groups)
        self.attn_1 = PixelAttention(channels, groups)
        self.block_2 = ResnetBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return output


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return output


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return output


class Level(nn.Module):
    """The blocks at one resolution, then the change to the next."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, groups: int, change: str | None) -> None:
        super().__init__()
        widths = [in_channels, *[out_channels] * layers]
        self.block = nn.ModuleList(ResnetBlock(*pair, groups) for pair in pairwise(widths))
        if change == "downsample":
            self.downsample = Downsample(out_channels)
        elif change == "upsample":
            self.upsample = Upsample(out_channels)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x if self.change is None else self.get_submodule(self.change)(x)


class Encoder(nn.Module):
    """Images [B, 3, H, W] to mean and log variance [B, 2 * latent_channels, H / factor, W / factor]."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels, groups = config.block_channels, config.groups
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.down = nn.ModuleList(
            Level(
                channels[max(level - 1, 0)],
                channels[level],
                config.layers_per_block,
                groups,
                "downsample" if level < len(channels) - 1 else None,
            )
            for level in range(len(channels))
        )
        self.mid = Middle(channels[-1], groups)
        self.norm_out = nn.GroupNorm(groups, channels[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(channels[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_in(images)
        for level in self.down:
            x = level(x)
        output: Tensor = self.conv_out(silu(self.norm_out(self.mid(x))))
        return output


class Decoder(nn.Module):
    """Latents [B, latent_channels, h, w] to images [B, 3, h * factor, w * factor]; `up.0` is the last level."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels, groups = config.block_channels, config.groups
        self.conv_in = nn.Conv2d(config.latent_channels, channels[-1], 3, padding=1)
        self.mid = Middle(channels[-1], groups)
        self.up = nn.ModuleList(
            Level(
                channels[min(level + 1, len(channels) - 1)],
                channels[level],
                config.layers_per_block + 1,
                groups,
                "upsample" if level else None,
            )
            for level in range(len(channels))
        )
        self.norm_out = nn.GroupNorm(groups, channels[0], eps=1e-6)
        self.conv_out = nn.Conv2d(channels[0], 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.mid(self.conv_in(latents))
        for level in reversed(self.up):
            x = level(x)
        output: Tensor = self.conv_out(silu(self.norm_out(x)))
        return output


class Autoencoder(nn.Module):
    """Images to scaled latents and back. It computes in the dtype of its weights.

    PERF: on a CPU `.to(memory_format=torch.channels_last)` saves a fifth of the time.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, images: Tensor, *, generator: torch.Generator | None = None, tile_px: int | None = 1024) -> Tensor:
        """Return latents [B, latent_channels, H / factor, W / factor], scaled for the transformer.

        images [B, 3, H, W] in -1 to 1; H and W multiples of `config.factor`. The mean of the encoder's distribution,
        or with a (CPU) generator a sample of it. Images longer than tile_px on a side are encoded in tiles.
        """
        factor = self.config.factor
        if images.shape[-2] % factor or images.shape[-1] % factor:
            height, width = images.shape[-2:]
            raise ValueError(f"the image's {width}x{height} pixels are not multiples of {factor}")
        mean, log_variance = tiled(self.encoder, images, tile_px, factor, 1).chunk(2, dim=1)
        if generator is not None:
            noise = torch.randn(mean.shape, generator=generator).to(mean)
            mean = mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise
        return (mean - self.config.shift) * self.config.scale

    def decode(self, latents: Tensor, *, tile_px: int | None = 1024) -> Tensor:
        """Return images [B, 3, h * factor, w * factor], about -1 to 1, of latents [B, latent_channels, h, w].

        Images longer than tile_px on a side are decoded in tiles of that size, which bounds memory.
        """
        return tiled(self.decoder, latents / self.config.scale + self.config.shift, tile_px, 1, self.config.factor)


def tiled(network: nn.Module, x: Tensor, tile_px: int | None, in_px: int, out_px: int) -> Tensor:
    """Return network(x), computed in overlapping tiles of tile_px pixels and blended if x is larger.

    A latent covers in_px pixels of x along each side, and out_px pixels of the result. All tiles are normalized by the
    statistics of x reduced to the size of a tile, because with their own statistics tiles would differ in colour.
    """
    height, width = x.shape[-2] // in_px, x.shape[-1] // in_px
    tile = max(tile_px // max(in_px, out_px), 2) if tile_px else max(height, width)
    if height <= tile and width <= tile:
        result: Tensor = network(x)
        return result
    reduced = F.interpolate(x, size=(min(height, tile) * in_px, min(width, tile) * in_px), mode="nearest-exact")
    with normalized_like(network, reduced):
        return _tiled(network, x, tile, in_px, out_px)


def _tiled(network: nn.Module, x: Tensor, tile: int, in_px: int, out_px: int) -> Tensor:
    height, width = x.shape[-2] // in_px, x.shape[-1] // in_px
    rows, columns = spread(height, tile), spread(width, tile)
    row_weights, column_weights = feathers(rows, out_px), feathers(columns, out_px)
    result = torch.zeros(())
    for row, row_weight in zip(rows, row_weights, strict=True):
        for column, column_weight in zip(columns, column_weights, strict=True):
            output_tile = network(x[..., times(row, in_px), times(column, in_px)])
            if not result.ndim:
                result = output_tile.new_zeros(
                    (*output_tile.shape[:-2], height * out_px, width * out_px), dtype=torch.float32
                )
            weight = (row_weight[:, None] * column_weight).to(output_tile.device)
            result[..., times(row, out_px), times(column, out_px)] += output_tile * weight
    return result.to(x.dtype)


def spread(length: int, tile: int) -> list[slice]:
    """Return evenly spaced tiles that cover `length` and overlap by a quarter or more."""
    if length <= tile:
        return [slice(0, length)]
    count = -(-(length - tile) // (tile - tile // 4)) + 1
    starts = [round(number * (length - tile) / (count - 1)) for number in range(count)]
    return [slice(start, start + tile) for start in starts]


def times(tile: slice, px: int) -> slice:
    return slice(tile.start * px, tile.stop * px)


def feathers(tiles: list[slice], px: int) -> list[Tensor]:
    """Return weights [tile * px] per tile, which fall towards its ends and add up to 1 where tiles overlap."""
    ramps = []
    for tile in tiles:
        length = (tile.stop - tile.start) * px
        inwards = torch.arange(1, length + 1, dtype=torch.float32)
        ramps.append(torch.minimum(inwards, inwards.flip(0)).clamp(max=max(length // 4, 1)))
    total = torch.zeros(tiles[-1].stop * px)
    for tile, ramp in zip(tiles, ramps, strict=True):
        total[times(tile, px)] += ramp
    return [ramp / total[times(tile, px)] for tile, ramp in zip(tiles, ramps, strict=True)]
