"""Clips decoded and encoded in tiles, where the whole would take too much memory at once. Tiles overlap and fade."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TILE_PX_FRAMES", "decoded", "encoded"]

# A tile in latents, along each side and in time, and what neighbours share; at LTX-2's strides 512 x 512 pixels x 65
# frames, which take 6 GB in bf16 to decode. A clip of no more pixels x frames than that is one tile.
_SIDE, _SHARED = 16, 3
_TIME, _SHARED_TIME = 9, 3
TILE_PX_FRAMES = 512 * 512 * 65


def decoded(vae: Any, latents: Tensor) -> Iterator[Tensor]:
    """Yield the pixels [C, f, H, W], in -1 to 1, of latents [1, C, F, H, W], some frames at a time."""
    _, _, frames, rows, columns = latents.shape
    space, time = vae.spatial_compression_ratio, vae.temporal_compression_ratio
    if ((frames - 1) * time + 1) * rows * columns * space**2 <= TILE_PX_FRAMES:
        yield vae.decode(latents, return_dict=False)[0][0]
        return
    spans = _spans(frames, _TIME, _SHARED_TIME)
    held: Tensor | None = None  # the frames that the next stretch fades in over
    for index, (first, last) in enumerate(spans):
        pixels = _stretch(vae, latents[:, :, first:last], space)
        if held is not None:
            shared = held.shape[1]
            rise = _rise(shared, pixels)[None, :, None, None]
            pixels[:, :shared] = held * (1 - rise) + pixels[:, :shared] * rise
        following = spans[index + 1][0] if index + 1 < len(spans) else None
        # A stretch that begins at latent n begins with the last frame of that latent: n times `time`.
        kept = pixels.shape[1] if following is None else (following - first) * time
        held = pixels[:, kept:]
        yield pixels[:, :kept]


def encoded(vae: Any, pixels: Tensor) -> Tensor:
    """Return the latents [1, C, n+1, H, W], as the encoder has them, of pixels [1, 3, 8n+1, h, w] in -1 to 1."""
    import torch

    _, _, frames, height, width = pixels.shape
    if frames * height * width <= TILE_PX_FRAMES:
        return _means(vae, pixels)
    space, time = vae.spatial_compression_ratio, vae.temporal_compression_ratio
    parts: list[Tensor] = []
    done = 0
    for first, last in _spans((frames - 1) // time + 1, _TIME, _SHARED_TIME):
        # The encoder looks back only: what a stretch begins with lacks what came before, and is there already.
        stretch = pixels[:, :, first * time : (last - 1) * time + 1]

        def tile(top: int, bottom: int, left: int, right: int, stretch: Tensor = stretch) -> Tensor:
            return _means(vae, stretch[..., top * space : bottom * space, left * space : right * space])[0]

        parts.append(_mosaic(tile, height // space, width // space, 1)[:, done - first :])
        done = last
    return torch.cat(parts, dim=1)[None]


def _means(vae: Any, pixels: Tensor) -> Tensor:
    means: Tensor = vae.encode(pixels).latent_dist.mode()
    return means


def _stretch(vae: Any, latents: Tensor, space: int) -> Tensor:
    """Return the pixels [C, f, H, W] of some latent frames, decoded in tiles of the image."""

    def tile(top: int, bottom: int, left: int, right: int) -> Tensor:
        pixels: Tensor = vae.decode(latents[:, :, :, top:bottom, left:right], return_dict=False)[0][0]
        return pixels

    return _mosaic(tile, latents.shape[3], latents.shape[4], space)


def _mosaic(tile_of: Callable[[int, int, int, int], Tensor], rows: int, columns: int, space: int) -> Tensor:
    """Return [C, f, rows·space, columns·space] put together from tiles of latents from top to bottom, left to right."""
    total: Tensor | None = None
    weights: Tensor | None = None
    for top, bottom in _spans(rows, _SIDE, _SHARED):
        for left, right in _spans(columns, _SIDE, _SHARED):
            tile = tile_of(top, bottom, left, right).float()
            if total is None or weights is None:
                shape = (*tile.shape[:2], rows * space, columns * space)
                total, weights = tile.new_zeros(shape), tile.new_zeros(shape[2:])
            fading = _ramp(tile.shape[2], space, tile)[:, None] * _ramp(tile.shape[3], space, tile)
            area = (slice(top * space, bottom * space), slice(left * space, right * space))
            total[:, :, *area] += tile * fading
            weights[area] += fading
    assert total is not None and weights is not None
    return total.div_(weights)


def _spans(length: int, tile: int, shared: int) -> list[tuple[int, int]]:
    """Return stretches of one size that cover `length`, each sharing at least `shared` with the next.

    Stretches of one size: the autoencoder pads by mirroring, for which one latent is too few.
    """
    if length <= tile:
        return [(0, length)]
    count = -(-(length - shared) // (tile - shared))
    firsts = [index * (length - tile) // (count - 1) for index in range(count)]
    assert all(after - first <= tile - shared for first, after in pairwise(firsts))
    return [(first, first + tile) for first in firsts]


def _ramp(pixels: int, space: int, like: Tensor) -> Tensor:
    """Return how much the pixels along a side of a tile count: less and less towards its ends."""
    import torch

    place = torch.arange(pixels, device=like.device, dtype=torch.float32) + 0.5
    return (torch.minimum(place, pixels - place) / (_SHARED * space)).clamp(max=1)


def _rise(frames: int, like: Tensor) -> Tensor:
    import torch

    return (torch.arange(frames, device=like.device, dtype=torch.float32) + 1) / (frames + 1)
