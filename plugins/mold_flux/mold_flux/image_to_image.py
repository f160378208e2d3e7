"""Inputs of image-to-image and inpainting: the source image, and the mask of the region to repaint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

import numpy as np
import torch
from attrs import frozen
from PIL import Image
from torch import Tensor

from mold_core import GenerateRequest, decode_image
from mold_core.families import RecentValues, pixels_from_images, required
from mold_core.media import decode_image_as_stored, from_srgb
from mold_flux.sampling import noised, pack

__all__ = [
    "KeptRegion",
    "SourceEncoder",
    "kept_region",
    "latent_mask",
    "mask_levels",
    "on_background",
    "source_image",
    "with_kept_pixels",
]

_CACHED_IMAGES = 4


class SourceEncoder:
    """Encodes source images to latents. Caches the last four images and sizes."""

    def __init__(self) -> None:
        self._cache: RecentValues[tuple[object, ...], Tensor] = RecentValues(_CACHED_IMAGES)

    def latents(self, request: GenerateRequest, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the scaled latents [1, C, h, w], fp32, of a request's source image at the request's size.

        `encode` turns pixels [1, 3, H, W] in -1 to 1 into scaled latents; it is called for new images only.
        """
        return self.encoded(request, lambda: pixels_from_images([source_image(request)]), encode)

    def encoded(
        self, request: GenerateRequest, pixels: Callable[[], Tensor], encode: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the latents of what `pixels` makes of the source image and the mask of a request, at its size."""
        images = (request.source_image or b"", request.mask_image or b"")
        key = (*(sha256(image).digest() for image in images), _size(request))
        (latents,) = self._cache.get([key], lambda _: [encode(pixels()).float()])
        return latents


@frozen(kw_only=True, eq=False)
class KeptRegion:
    """The region that inpainting keeps: tokens [B, N, C] of images and noise, masks from 0 (keep) to 1 (repaint)."""

    mask: Tensor
    images: Tensor
    noise: Tensor

    def blend(self, latents: Tensor, sigma: float) -> Tensor:
        """Return latents [B, N, C] with the kept region restored at noise level sigma."""
        return torch.lerp(noised(self.images, self.noise, sigma), latents, self.mask)

    def select(self, images: slice) -> KeptRegion:
        """Return the same for some images of the batch."""
        return KeptRegion(mask=self.mask[images], images=self.images[images], noise=self.noise[images])


def kept_region(requests: Sequence[GenerateRequest], images: Tensor, noise: Tensor, device: str) -> KeptRegion | None:
    """Return the regions of images that masks keep, on a device; None if no request has a mask.

    images and noise [B, C, h, w].
    """
    if all(request.mask_image is None for request in requests):
        return None
    masks = [latent_mask(request, images.shape[2], images.shape[3]) for request in requests]
    mask = torch.stack(masks)[:, None].expand(images.shape)
    mask, images, noise = (pack(tensor.contiguous()).to(device) for tensor in (mask, images, noise))
    return KeptRegion(mask=mask, images=images, noise=noise)


def latent_mask(request: GenerateRequest, height: int, width: int) -> Tensor:
    """Return the mask [height, width] of a request at latent size, 0 (kept) to 1 (repainted); without one, ones."""
    if request.mask_image is None:
        return torch.ones(height, width)
    levels = mask_levels(request, (width, height))
    return torch.from_numpy(np.asarray(levels).copy()).float().div(255)


def with_kept_pixels(generated: Image.Image, request: GenerateRequest) -> Image.Image:
    """Return a generated image with the pixels of the source wherever the mask keeps them.

    The autoencoder does not reproduce pixels exactly, so without this the kept region would change slightly.
    The result has the color profile of the source.
    """
    if request.mask_image is None or request.source_image is None:
        return generated
    stored, profile = decode_image_as_stored(request.source_image, name="source_image")
    source = on_background(stored, "white").resize(_size(request), Image.Resampling.LANCZOS)
    if profile is None:
        return Image.composite(generated, source, mask_levels(request, generated.size))
    composed = Image.composite(from_srgb(generated, profile), source, mask_levels(request, generated.size))
    composed.info["icc_profile"] = profile
    return composed


def source_image(request: GenerateRequest) -> Image.Image:
    """Return the source image at exactly the request's size, RGB; what is transparent is laid on white."""
    assert request.source_image is not None
    image = decode_image(request.source_image, name="source_image")
    return on_background(image, "white").resize(_size(request), Image.Resampling.LANCZOS)


def mask_levels(request: GenerateRequest, size: tuple[int, int]) -> Image.Image:
    """Return the mask in a size, 8-bit grey; what is transparent counts as black."""
    assert request.mask_image is not None
    mask = decode_image(request.mask_image, name="mask_image", srgb=False)
    return on_background(mask, "black").convert("L").resize(size, Image.Resampling.LANCZOS)


def on_background(image: Image.Image, colour: str) -> Image.Image:
    """Return an image as RGB; transparent areas are laid on a colour."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, colour)
    ground.alpha_composite(image)
    return ground.convert("RGB")


def _size(request: GenerateRequest) -> tuple[int, int]:
    return required(request.width), required(request.height)
