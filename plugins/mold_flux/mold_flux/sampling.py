"""The denoising loop, initial noise, and packing of latents into tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mold_core.families import seeded_generator
from mold_flux.step_cache import FirstBlockCache
from mold_flux.transformer import Conditioning, FluxTransformer

__all__ = ["denoise", "initial_noise", "noised", "pack", "unpack"]


def initial_noise(seed: int, channels: int, height: int, width: int) -> Tensor:
    """Return noise [1, channels, height, width], fp32 on the CPU: the same for a seed in any batch."""
    return torch.randn((1, channels, height, width), generator=seeded_generator(seed))


def noised(latents: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """Return latents at noise level sigma, 0 (no noise) to 1 (only noise): the start of image-to-image."""
    return (1 - sigma) * latents + sigma * noise


def pack(latents: Tensor) -> Tensor:
    """Return tokens [B, height/2 * width/2, 4C] of latents [B, C, height, width]: one per 2x2 square, row by row."""
    batch, channels, height, width = latents.shape
    squares = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(batch, height * width // 4, channels * 4)


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Return latents [B, C, 2 rows, 2 columns] of tokens [B, rows * columns, 4C]."""
    batch, _, channels = tokens.shape
    squares = tokens.view(batch, rows, columns, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return squares.reshape(batch, channels // 4, rows * 2, columns * 2)


def denoise(
    transformer: FluxTransformer,
    noise: Tensor,
    conditioning: Conditioning,
    sigmas: Sequence[float],
    on_step: Callable[[int, int, Tensor], None],
    *,
    blend: Callable[[Tensor, float], Tensor] | None = None,
    on_estimate: Callable[[int, int, Tensor], None] | None = None,
    cache: FirstBlockCache | None = None,
) -> Tensor:
    """Return latents [B, N, C], fp32, from noise [B, N, C]: Euler steps along the velocity, in fp32.

    `conditioning` was prepared for all but the last of `sigmas`. `blend` may change the latents after each step, given
    their noise level: inpainting restores the region to keep. `on_estimate` is called after each step but the last with
    the final latents at the current velocity. `on_step` is called after each step with its number from 1, the number of
    steps and the latents; an exception from it ends the loop. `cache` leaves out steps that change little.
    """
    latents = noise.float()
    total = len(sigmas) - 1
    for index in range(total):
        velocity = transformer.step(latents.to(conditioning.dtype), conditioning, index, cache)
        latents = latents + (sigmas[index + 1] - sigmas[index]) * velocity.float()
        if blend is not None:
            latents = blend(latents, sigmas[index + 1])
        if on_estimate is not None and index + 1 < total:
            on_estimate(index + 1, total, latents - sigmas[index + 1] * velocity.float())
        on_step(index + 1, total, latents)
    return latents
