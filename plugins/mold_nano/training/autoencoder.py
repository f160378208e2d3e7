"""The autoencoder of flux-nano: that of `mold_flux`, small, and faster to train."""

import torch
from torch import Tensor, nn

import mold_flux.autoencoder
from mold_flux.autoencoder import AutoencoderConfig

# Latents here are the raw ones: FLUX's shift and scale are measured when the autoencoder is done.
CONFIG = AutoencoderConfig(
    block_channels=(16, 32, 64, 64), layers_per_block=1, latent_channels=16, groups=8, scale=1.0, shift=0.0
)


class ChannelsLastNorm(nn.GroupNorm):
    """Group normalisation that takes and returns channels-last memory.

    PERF: on CPUs the backward pass of the channels-last kernel is four times slower than two copies and the other one.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


class Autoencoder(mold_flux.autoencoder.Autoencoder):
    """Both halves of the network, with norms that train fast."""

    def __init__(self) -> None:
        super().__init__(CONFIG)
        for module in list(self.modules()):
            for name, norm in list(module.named_children()):
                if isinstance(norm, nn.GroupNorm):
                    setattr(module, name, ChannelsLastNorm(norm.num_groups, norm.num_channels, eps=norm.eps))

    def moments(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the mean and the log variance of the pictures' latents."""
        mean, logvar = self.encoder(pictures).chunk(2, dim=1)
        return mean, logvar.clamp(-20, 10)
