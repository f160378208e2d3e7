"""The device and the tile size of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from mold_core.hookspecs import UpscalerNetwork
from mold_core.upscaling.memory import tile_for, tiles_together

if TYPE_CHECKING:
    from mold_core.upscaling.enlarge import Enlarger

__all__ = ["ExecutionDevice", "enlarger_for"]


@attrs.frozen
class ExecutionDevice:
    """The device of a network, and a function that returns its free memory in bytes."""

    device: str
    free_bytes: Callable[[str], int]


def enlarger_for(network: UpscalerNetwork, tile_size: int | None, where: ExecutionDevice) -> Enlarger:
    """Return an Enlarger with tiles of `tile_size`, 0 for no tiles; None selects it by network and memory."""
    from mold_core.upscaling.enlarge import Enlarger

    free = where.free_bytes(where.device)
    tile = tile_for(network, free) if tile_size is None else tile_size
    together = tiles_together(network, tile, where.device, free) if tile else 1
    return Enlarger(network, where.device, tile=tile, together=together)
