"""Latents into images and back, in tiles where memory is short."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

import torch
from attrs import frozen
from PIL import Image
from torch import Tensor

from mold_core import Info, ProgressEvent
from mold_core.families import images_from_pixels, like_weights
from mold_core.weights import check_finite, is_out_of_memory, release_cached
from mold_flux.autoencoder import Autoencoder
from mold_flux.components import DECODED_PX, VAE_TILES_PX, vae_tile_px

__all__ = ["VaeMemory", "decoded", "encoded"]

log = logging.getLogger("mold.flux")


@frozen(kw_only=True)
class VaeMemory:
    """The memory that an autoencoder has: what its device has for the model (None: no limit), and its weights of it."""

    device: str
    available_bytes: int | None
    weight_bytes: int


def encoded(autoencoder: Autoencoder, pixels: Tensor) -> Tensor:
    """Return the latents [B, C, h, w], on the CPU, of pixels [B, 3, H, W] in -1 to 1. Raises InferenceError for NaN."""
    latents = autoencoder.encode(like_weights(pixels, autoencoder).contiguous(memory_format=torch.channels_last)).cpu()
    check_finite("VAE", latents, network=autoencoder, when="while it encoded the source image")
    return latents


def decoded(
    autoencoder: Autoencoder, latents: Tensor, memory: VaeMemory, report: Callable[[ProgressEvent], object]
) -> list[Image.Image]:
    """Return the images of latents [B, C, h, w], a few at a time. Raises InferenceError for pixels that are not finite.

    An image that needs more than the memory is decoded in tiles that overlap; when memory runs out, in smaller ones.
    """
    latents = like_weights(latents, autoencoder).contiguous(memory_format=torch.channels_last)
    factor = autoencoder.config.factor
    width_bytes = autoencoder.config.block_channels[0] * latents.element_size()
    tile_px = vae_tile_px(width_bytes, memory.available_bytes, memory.weight_bytes)
    images: list[Image.Image] = []
    for few in latents.split(max(1, DECODED_PX // (latents.shape[-2] * latents.shape[-1] * factor**2))):
        pixels = None
        while pixels is None:
            pixels = _pixels(autoencoder, few, tile_px)
            if pixels is None:
                release_cached(memory.device)
                tile_px = next(side for side in VAE_TILES_PX if side < tile_px)
                report(Info(message=f"memory ran out while decoding; going on in tiles of {tile_px} pixels"))
        images += images_from_pixels(pixels)
    return images


def _pixels(autoencoder: Autoencoder, latents: Tensor, tile_px: int) -> Tensor | None:
    """Return the pixels of latents; None when memory ran out and there are smaller tiles."""
    try:
        pixels = autoencoder.decode(latents, tile_px=tile_px)
    except Exception as error:
        if tile_px == VAE_TILES_PX[-1] or not is_out_of_memory(error):
            raise
        log.warning("memory ran out while decoding in tiles of %d pixels: %s", tile_px, error)
        traceback.clear_frames(error.__traceback__)  # with the tensors of the failed attempt
        return None
    check_finite("VAE", pixels, network=autoencoder)
    return pixels
