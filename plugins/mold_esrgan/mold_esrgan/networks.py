"""The networks of Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833), with the parameter names of the official files.

RRDBNet is the generator of ESRGAN (Wang et al. 2018, arXiv 1809.00219); SRVGGNetCompact is the small network of the
project's video and general models. Both take float [B, 3, H, W] in 0..1 and return [B, 3, H·scale, W·scale], not
clamped.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mold_esrgan.configs import CompactConfig, RRDBConfig

__all__ = ["RRDBNet", "SRVGGNetCompact", "SuperResolutionNetwork"]

# The share of a residual block's output that is added to its input (Wang et al. 2018, section 3.1).
_RESIDUAL = 0.2


class SuperResolutionNetwork(nn.Module):
    """A network that enlarges images."""

    def compute_in(self, dtype: torch.dtype) -> None:
        """Convert the weights to a dtype, except where pixels would lose precision."""
        raise NotImplementedError


class ResidualDenseBlock(nn.Module):
    """Five 3x3 convolutions, each on the outputs of all previous ones."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        for index in range(1, 5):
            setattr(self, f"conv{index}", nn.Conv2d(features + (index - 1) * growth, growth, 3, padding=1))
        self.conv5 = nn.Conv2d(features + 4 * growth, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        features_so_far = x
        for index in range(1, 5):
            features_so_far = torch.cat(
                (features_so_far, _leaky(self.get_submodule(f"conv{index}")(features_so_far))), dim=1
            )
        return torch.add(x, self.conv5(features_so_far), alpha=_RESIDUAL)


class RRDB(nn.Module):
    """Residual in residual dense block: three dense blocks around a shortcut."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock(features, growth)
        self.rdb2 = ResidualDenseBlock(features, growth)
        self.rdb3 = ResidualDenseBlock(features, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=_RESIDUAL)


class RRDBNet(SuperResolutionNetwork):
    """The large network: RealESRGAN_x4plus has 23 blocks, the anime model 6; x2 and x1 unshuffle their input."""

    def __init__(self, config: RRDBConfig) -> None:
        super().__init__()
        features = config.features
        self.config = config
        self.conv_first = nn.Conv2d(3 * config.unshuffle**2, features, 3, padding=1)
        self.body = nn.Sequential(*(RRDB(features, config.growth) for _ in range(config.blocks)))
        self.conv_body = nn.Conv2d(features, features, 3, padding=1)
        for stage in range(1, config.stages + 1):
            setattr(self, f"conv_up{stage}", nn.Conv2d(features, features, 3, padding=1))
        self.conv_hr = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_first(F.pixel_unshuffle(x, self.config.unshuffle)).to(self.conv_body.weight.dtype)
        x = x + self.conv_body(self.body(x))
        for stage in range(1, self.config.stages + 1):
            x = _leaky(getattr(self, f"conv_up{stage}")(F.interpolate(x, scale_factor=2, mode="nearest")))
        output: Tensor = self.conv_last(_leaky(self.conv_hr(x)).to(self.conv_last.weight.dtype))
        return output

    def compute_in(self, dtype: torch.dtype) -> None:
        """Convert all but the first and the last convolution: pixels in bf16 would show as steps."""
        for name, layer in self.named_children():
            if name not in ("conv_first", "conv_last"):
                layer.to(dtype)


class SRVGGNetCompact(SuperResolutionNetwork):
    """The small network: 3x3 convolutions and PReLUs at the input's size, shuffled up and added to its pixels."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        features = config.features
        self.config = config
        layers: list[nn.Module] = [nn.Conv2d(3, features, 3, padding=1), nn.PReLU(features)]
        for _ in range(config.convs):
            layers += [nn.Conv2d(features, features, 3, padding=1), nn.PReLU(features)]
        layers.append(nn.Conv2d(features, 3 * config.scale**2, 3, padding=1))
        self.body = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        out = x.to(next(self.body.parameters()).dtype)
        for layer in self.body:
            out = layer(out)
        enlarged = F.interpolate(x, scale_factor=self.config.scale, mode="nearest")
        return F.pixel_shuffle(out.to(x.dtype), self.config.scale) + enlarged

    def compute_in(self, dtype: torch.dtype) -> None:
        """Convert the convolutions; their output is added to the pixels in the dtype of the pixels."""
        self.body.to(dtype)


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=not torch.is_grad_enabled())
