"""Tensors at the edges of networks: images to pixels and back, inputs in a network's dtype, noise of a seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

__all__ = ["images_from_pixels", "like_weights", "pixels_from_images", "seeded_generator", "to_channels_last"]


def pixels_from_images(images: Sequence[Image.Image]) -> Tensor:
    """Return images of one size as pixels [N, 3, H, W] in -1 to 1, fp32."""
    levels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images]))
    return levels.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def images_from_pixels(pixels: Tensor) -> list[Image.Image]:
    """Return the images of pixels [N, 3, H, W] in -1 to 1; values outside are clamped."""
    levels = (pixels.float() + 1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    return [Image.fromarray(image.numpy()) for image in levels.permute(0, 2, 3, 1).contiguous().cpu()]


def like_weights(tensor: Tensor, network: nn.Module) -> Tensor:
    """Return a tensor on the device and in the dtype of a network's floating-point weights."""
    weight = next(weight for weight in network.parameters() if weight.is_floating_point())
    return tensor.to(weight.device, weight.dtype)


def to_channels_last(network: nn.Module) -> None:
    """Store the weights of convolutions channels last, which CPUs and tensor cores compute faster."""
    convert: Any = network.to  # torch's annotations lack the argument
    convert(memory_format=torch.channels_last)


def seeded_generator(seed: int) -> torch.Generator:
    """Return a generator of noise on the CPU, so that a seed gives the same noise on every device.

    torch's CPU generator uses 32 bits of a seed. Larger seeds (up to 2^64 - 1) are folded into them, so neighbouring
    ones differ and those below 2^32 give the noise that diffusers gives.
    """
    return torch.Generator().manual_seed((seed ^ (seed >> 32)) & 0xFFFF_FFFF)
