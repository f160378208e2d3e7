"""Tile size and batch size for the free memory."""

from __future__ import annotations

import math

from mold_core.hookspecs import UpscalerNetwork

__all__ = ["SMALLEST_TILE", "tile_for", "tiles_together"]

# Other programs may need memory before a tile is done.
_SHARE = 0.4

# PERF: on a CPU, the tiles of a batch evict each other from the cache.
_MOST_TOGETHER = 8

SMALLEST_TILE = 64


def tile_for(network: UpscalerNetwork, free: int) -> int:
    """Return the side of a tile for a network: its preferred size, or less if memory is short."""
    fits = math.isqrt(int(free * _SHARE) // max(network.bytes_per_pixel, 1))
    return max(SMALLEST_TILE, min(network.tile, fits))


def tiles_together(network: UpscalerNetwork, tile: int, device: str, free: int) -> int:
    """Return the number of tiles per batch."""
    if not device.startswith("cuda"):
        return 1
    return max(1, min(_MOST_TOGETHER, int(free * _SHARE) // max(network.bytes_per_pixel * tile * tile, 1)))
