"""The additional inputs of FLUX.1 Fill, Canny, Depth and Kontext.

Canny and Depth get the latents of a control image, its edges or its depth, as additional input channels of each token.
Fill gets those of the masked image, and the mask of all its pixels. Kontext gets the tokens of the image to edit after
those of the generated image (Black Forest Labs 2025, arXiv 2506.15742).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mold_core import GenerateRequest, ValidationError, decode_image
from mold_core.families import pixels_from_images
from mold_flux.image_to_image import mask_levels, on_background, source_image
from mold_flux.sampling import pack

__all__ = [
    "check_control",
    "check_inpainting",
    "inpainting_channels",
    "mask_channels",
    "masked_pixels",
    "reference_pixels",
    "reference_size",
]

# Sizes of about a megapixel that Kontext was trained on: width and height, in both orientations.
_REFERENCE_SIZES = (
    (1024, 1024), (944, 1104), (880, 1184), (832, 1248), (800, 1328),
    (752, 1392), (720, 1456), (688, 1504), (672, 1568),
)  # fmt: skip
_REFERENCE_MULTIPLE = 16


def check_inpainting(requests: Sequence[GenerateRequest]) -> None:
    """Raise ValidationError for requests without the image and the mask that Fill needs."""
    for request in requests:
        for field in ("source_image", "mask_image"):
            if getattr(request, field) is None:
                raise ValidationError(
                    f"FLUX.1 Fill needs source_image and mask_image; {field} is missing",
                    field=field,
                    hint="white parts of the mask are generated, black ones are kept (--image, --mask)",
                )


def check_control(requests: Sequence[GenerateRequest]) -> None:
    """Raise ValidationError for requests without the control image that Canny, Depth and their LoRAs need."""
    for request in requests:
        if request.source_image is None:
            raise ValidationError(
                "FLUX.1 Canny and Depth, and their LoRAs, need source_image: the edges or the depth of the image",
                field="source_image",
            )
        if request.mask_image is not None:
            raise ValidationError("FLUX.1 Canny and Depth take no mask_image", field="mask_image")


def masked_pixels(request: GenerateRequest) -> tuple[Tensor, Tensor]:
    """Return the source image [1, 3, H, W] in -1 to 1, with 0 where it is masked, and the mask [H, W], 0 or 1."""
    pixels = pixels_from_images([source_image(request)])
    levels = np.asarray(mask_levels(request, (pixels.shape[3], pixels.shape[2]))).copy()
    mask = (torch.from_numpy(levels) >= 128).float()
    return pixels * (1 - mask), mask


def inpainting_channels(latents: Tensor, mask: Tensor) -> Tensor:
    """Return Fill's channels after those of noise: tokens [1, N, C] of masked latents [1, C, h, w] and a mask."""
    factor = mask.shape[0] // latents.shape[2]
    return torch.cat([pack(latents), pack(mask_channels(mask, factor)[None])], dim=-1)


def mask_channels(mask: Tensor, factor: int) -> Tensor:
    """Return a mask [H, W] as channels [factor², H / factor, W / factor]: one for each pixel of a latent."""
    height, width = mask.shape
    blocks = mask.view(height // factor, factor, width // factor, factor).permute(1, 3, 0, 2)
    return blocks.reshape(factor * factor, height // factor, width // factor)


def reference_pixels(request: GenerateRequest, area_px: int) -> Tensor:
    """Return the image to edit [1, 3, H, W] in -1 to 1, with about its aspect ratio and an area near `area_px`."""
    assert request.source_image is not None
    image = decode_image(request.source_image, name="source_image")
    return pixels_from_images([on_background(image, "white").resize(reference_size(image.size, area_px))])


def reference_size(size: tuple[int, int], area_px: int) -> tuple[int, int]:
    """Return the training size of Kontext with the nearest aspect ratio, scaled to `area_px` for smaller models."""
    sizes = (*_REFERENCE_SIZES, *((height, width) for width, height in _REFERENCE_SIZES))
    shape = size[0] / size[1]
    width, height = min(sizes, key=lambda each: abs(each[0] / each[1] - shape))
    scale = min(1.0, math.sqrt(area_px) / 1024)
    multiples = (max(1, round(side * scale / _REFERENCE_MULTIPLE)) for side in (width, height))
    columns, rows = multiples
    return columns * _REFERENCE_MULTIPLE, rows * _REFERENCE_MULTIPLE
