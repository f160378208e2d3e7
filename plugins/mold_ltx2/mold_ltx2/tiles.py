"""Decode and encode large clips in overlapping tiles, which are blended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TILE_PX_FRAMES", "decoded", "encoded"]

# Size of a tile in latents, in space and time, and the overlap of neighbours. At LTX-2's strides a tile has 512 x 512
# pixels x 65 frames, which take 6 GB to decode in bf16. A clip of at most that size is one tile.
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
    previous: Tensor | None = None  # the frames that the next span is blended with
    for index, (first, last) in enumerate(spans):
        pixels = _decoded_span(vae, latents[:, :, first:last], space)
        if previous is not None:
            shared = previous.shape[1]
            rise = _rise(shared, pixels)[None, :, None, None]
            pixels[:, :shared] = previous * (1 - rise) + pixels[:, :shared] * rise
        following = spans[index + 1][0] if index + 1 < len(spans) else None
        # A span from latent n on begins with the last frame of that latent, n times `time`.
        finished = pixels.shape[1] if following is None else (following - first) * time
        previous = pixels[:, finished:]
        yield pixels[:, :finished]


def encoded(vae: Any, pixels: Tensor) -> Tensor:
    """Return the latents [1, C, n+1, H, W], in the scale of the encoder, of pixels [1, 3, 8n+1, h, w] in -1 to 1."""
    import torch

    _, _, frames, height, width = pixels.shape
    if frames * height * width <= TILE_PX_FRAMES:
        return _means(vae, pixels)
    space, time = vae.spatial_compression_ratio, vae.temporal_compression_ratio
    encoded_spans: list[Tensor] = []
    done = 0
    for first, last in _spans((frames - 1) // time + 1, _TIME, _SHARED_TIME):
        # The encoder looks back only, so the overlap with the previous span is taken from that span.
        span = pixels[:, :, first * time : (last - 1) * time + 1]

        def tile(top: int, bottom: int, left: int, right: int, span: Tensor = span) -> Tensor:
            return _means(vae, span[..., top * space : bottom * space, left * space : right * space])[0]

        encoded_spans.append(_mosaic(tile, height // space, width // space, 1)[:, done - first :])
        done = last
    return torch.cat(encoded_spans, dim=1)[None]


def _means(vae: Any, pixels: Tensor) -> Tensor:
    means: Tensor = vae.encode(pixels).latent_dist.mode()
    return means


def _decoded_span(vae: Any, latents: Tensor, space: int) -> Tensor:
    """Return the pixels [C, f, H, W] of some latent frames, decoded in tiles."""

    def tile(top: int, bottom: int, left: int, right: int) -> Tensor:
        pixels: Tensor = vae.decode(latents[:, :, :, top:bottom, left:right], return_dict=False)[0][0]
        return pixels

    return _mosaic(tile, latents.shape[3], latents.shape[4], space)


def _mosaic(tile_of: Callable[[int, int, int, int], Tensor], rows: int, columns: int, space: int) -> Tensor:
    """Return [C, f, rows·space, columns·space], blended from tiles of latents."""
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
    """Return spans of one size that cover `length`, each overlapping the next by at least `shared`.

    All have one size because the autoencoder pads by mirroring, which fails for a single latent.
    """
    if length <= tile:
        return [(0, length)]
    count = -(-(length - shared) // (tile - shared))
    firsts = [index * (length - tile) // (count - 1) for index in range(count)]
    assert all(after - first <= tile - shared for first, after in pairwise(firsts))
    return [(first, first + tile) for first in firsts]


def _ramp(pixels: int, space: int, like: Tensor) -> Tensor:
    """Return the weight of the pixels along a side of a tile, which falls towards its ends."""
    import torch

    position = torch.arange(pixels, device=like.device, dtype=torch.float32) + 0.5
    return (torch.minimum(position, pixels - position) / (_SHARED * space)).clamp(max=1)


def _rise(frames: int, like: Tensor) -> Tensor:
    import torch

    return (torch.arange(frames, device=like.device, dtype=torch.float32) + 1) / (frames + 1)
