"""Group norms that normalize the tiles of an image alike, by statistics of the whole image.

Group norm (arXiv 1803.08494) normalizes by the mean and variance of its input, which for a tile are not those of the
image: each tile would get colors of its own. The statistics of the image, reduced to the size of a tile, come close.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Lock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["normalized_like"]

# Threads that share a batch also share the network, whose norms have the statistics of one image at a time.
_ONE_AT_A_TIME = Lock()


@contextmanager
def normalized_like(network: nn.Module, sample: Tensor) -> Iterator[None]:
    """Let every group norm of a network normalize as it does in `network(sample)`. All inputs have one batch size."""
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    statistics: dict[nn.GroupNorm, tuple[Tensor, Tensor]] = {}
    with _ONE_AT_A_TIME:
        try:
            for norm in norms:
                norm.forward = partial(_recorded, norm, statistics)  # type: ignore[method-assign]
            network(sample)
            for norm, (mean, variance) in statistics.items():
                norm.forward = partial(_normalized, norm, mean, variance)  # type: ignore[method-assign]
            yield
        finally:
            for norm in norms:
                del norm.forward


def _recorded(norm: nn.GroupNorm, statistics: dict[nn.GroupNorm, tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    out, mean, rstd = torch.native_group_norm(
        x, norm.weight, norm.bias, batch, channels, height * width, norm.num_groups, norm.eps
    )
    size = channels // norm.num_groups
    variance = rstd.float().pow(-2) - norm.eps
    statistics[norm] = (
        mean.float().repeat_interleave(size, dim=1).flatten(),
        variance.clamp(min=0).repeat_interleave(size, dim=1).flatten(),
    )
    return out


def _normalized(norm: nn.GroupNorm, mean: Tensor, variance: Tensor, x: Tensor) -> Tensor:
    """Return x [B, C, H, W] normalized by the mean and variance [B * C] of each of its channels, in fp32."""
    batch, channels, height, width = x.shape
    weight, bias = norm.weight.float().repeat(batch), norm.bias.float().repeat(batch)
    together = x if batch == 1 else x.reshape(1, batch * channels, height, width)
    return F.batch_norm(together, mean, variance, weight, bias, eps=norm.eps).view_as(x)
