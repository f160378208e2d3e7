"""Run a network over an image tile by tile, and join the tiles without seams."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from time import perf_counter

import torch
from torch import Tensor
from torch.nn import functional as F

from mold_core.errors import InsufficientMemoryError
from mold_core.hookspecs import UpscalerNetwork
from mold_core.upscaling.memory import SMALLEST_TILE
from mold_core.upscaling.plan import Span, ramps, spans
from mold_core.weights import is_out_of_memory, release_cached
from mold_core.weights.finite import check_finite

__all__ = ["Enlarger", "Reader"]

log = logging.getLogger("mold.upscaling")

# Returns the pixels of rows and columns as float32 [C, rows, columns] in 0..1. C is 3 for colours, 4 with alpha.
Reader = Callable[[Span, Span], Tensor]

# Called after each tile with its number from 1, the number of tiles, and the time it took in milliseconds.
OnTile = Callable[[int, int, int], None]


class Enlarger:
    """Upscales images with one network. `tile` is the side of a tile in pixels of the input; 0 means no tiles.

    If memory runs out, the tile size is halved, and finished tiles are kept; `tile` is then the smaller side.
    """

    def __init__(self, network: UpscalerNetwork, device: str, *, tile: int, together: int = 1) -> None:
        self.network = network
        self.tile = tile
        self._device = device
        self._together = together

    def tiles(self, height: int, width: int) -> int:
        """Return the number of tiles of an image of this size."""
        rows, columns = self._parts(height, width, self.tile)
        return len(rows) * len(columns)

    def strips(self, read: Reader, height: int, width: int, on_tile: OnTile | None = None) -> Iterator[Tensor]:
        """Yield the upscaled image from top to bottom as float32 [C, rows, width·scale], not clamped, on the CPU.

        A strip is a row of tiles without the rows that it shares with the next strip. `read` is called for each pixel
        of the image once or, where tiles overlap, a few times.
        """
        scale = self.network.scale
        with torch.inference_mode():
            padded = self._padded(read, height, width)
            done = 0
            for strip in self._strips(*padded, self.tile, on_tile):
                rows = min(strip.shape[1], height * scale - done)
                done += rows
                if rows:
                    yield strip[:, :rows, : width * scale]
                del strip  # otherwise it would stay in memory with the next one

    def whole(self, pixels: Tensor) -> Tensor:
        """Return an image float32 [C, H, W] in 0..1 upscaled to [C, H·scale, W·scale], clamped to 0..1."""
        _, height, width = pixels.shape
        strips = self.strips(reader_of(pixels), height, width)
        return torch.cat([strip.clamp(0, 1) for strip in strips], dim=1)

    # --- tiles ---------------------------------------------------------------------------------------------------

    def _parts(self, height: int, width: int, tile: int) -> tuple[list[Span], list[Span]]:
        network = self.network
        height, width = self._grown(height), self._grown(width)
        rows, columns = (spans(side, tile or side, network.overlap, network.multiple) for side in (height, width))
        return rows, columns

    def _strips(
        self, read: Reader, height: int, width: int, tile: int, on_tile: OnTile | None = None
    ) -> Iterator[Tensor]:
        scale, feather = self.network.scale, self.network.feather
        rows, columns = self._parts(height, width, tile)
        down = [torch.tensor(weights)[:, None] for weights in ramps(rows, feather, scale)]
        across = [torch.tensor(weights) for weights in ramps(columns, feather, scale)]
        carried: Tensor | None = None  # the rows that the row of tiles above shares with this one
        done = 0
        for number, row in enumerate(rows):
            strip: Tensor | None = None
            left = list(enumerate(columns))
            while left:
                some, left = left[: self._together], left[self._together :]
                started = perf_counter()
                upscaled = self._enlarged([read(row, column) for _, column in some])
                if strip is None:
                    strip = torch.zeros(upscaled[0].shape[0], row.length * scale, width * scale)
                for (index, column), pixels in zip(some, upscaled, strict=True):
                    weighted = pixels.mul_(across[index]).mul_(down[number])
                    strip[:, :, column.start * scale : column.stop * scale] += weighted
                if on_tile is not None:
                    elapsed_ms = round((perf_counter() - started) * 1000 / len(some))
                    for _ in some:
                        done += 1
                        on_tile(done, len(rows) * len(columns), elapsed_ms)
            assert strip is not None  # there is at least one column
            if carried is not None:
                strip[:, : carried.shape[1]] += carried
            if number + 1 == len(rows):
                yield strip
                return
            finished = (rows[number + 1].start - row.start) * scale
            carried = strip[:, finished:].clone()
            yield strip[:, :finished]

    # --- the network ---------------------------------------------------------------------------------------------

    def _enlarged(self, tiles: list[Tensor]) -> list[Tensor]:
        """Return upscaled tiles [C, h, w] of one size, with or without alpha."""
        colours = [_with_visible_colours(tile) if tile.shape[0] == 4 else tile for tile in tiles]
        upscaled = list(self._run(torch.stack([colour[:3] for colour in colours])).unbind())
        for index, tile in enumerate(tiles):
            if tile.shape[0] == 4:
                upscaled[index] = torch.cat((upscaled[index], self._alpha(tile[3])))
        return upscaled

    def _alpha(self, alpha: Tensor) -> Tensor:
        """Return a tile's alpha [h, w] upscaled to [1, H, W]. Uniform alpha does not run the network."""
        scale = self.network.scale
        first = float(alpha[0, 0])
        if bool((alpha == first).all()):
            return torch.full((1, alpha.shape[0] * scale, alpha.shape[1] * scale), first)
        return self._run(alpha.expand(1, 3, *alpha.shape))[0].mean(dim=0, keepdim=True)

    def _run(self, tiles: Tensor) -> Tensor:
        """Return tiles [B, 3, h, w] upscaled, in float32 on the CPU; in smaller pieces after memory has run out."""
        if self.tile and max(tiles.shape[2:]) > self._largest():
            return torch.stack([self._in_pieces(tile) for tile in tiles])
        try:
            on_device = tiles.to(self._device, memory_format=torch.channels_last)
            larger = self.network.module(on_device).to("cpu", torch.float32).contiguous()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            message = (str(error) or "no memory").splitlines()[0]
        else:
            check_finite("upscaler", larger, network=self.network.module)
            return larger
        # Outside the handler, the error and the tensors of the failed run that it refers to are freed.
        self._shrink(tiles, message)
        if len(tiles) > 1:
            return torch.cat([self._run(tile[None]) for tile in tiles])
        return torch.stack([self._in_pieces(tile) for tile in tiles])

    def _in_pieces(self, tile: Tensor) -> Tensor:
        _, height, width = tile.shape
        return torch.cat(list(self._strips(reader_of(tile), height, width, self.tile)), dim=1)

    def _largest(self) -> int:
        """Return the longest possible side of a tile; overlap makes small tiles larger than requested."""
        network = self.network
        overlap = -(-network.overlap // network.multiple) * network.multiple
        return max(self.tile, 2 * overlap, self._grown(1))

    def _shrink(self, tiles: Tensor, message: str) -> None:
        release_cached(self._device)
        if len(tiles) > 1:
            self._together = 1
            return
        side = max(tiles.shape[2:])
        halved = max(side // 2, SMALLEST_TILE, 2 * self.network.overlap)
        if halved >= side:
            raise InsufficientMemoryError(
                f"there is not enough memory for a tile of {side} x {side} pixels", hint="close other programs"
            )
        log.warning("memory ran out with tiles of %d pixels, going on with %d: %s", side, halved, message)
        self.tile = halved

    # --- padding -------------------------------------------------------------------------------------------------

    def _grown(self, side: int) -> int:
        network = self.network
        return -(-max(side, network.min_side) // network.multiple) * network.multiple

    def _padded(self, read: Reader, height: int, width: int) -> tuple[Reader, int, int]:
        """Return a reader of the image padded to sides that the network accepts, by repeating its last pixels."""
        tall, wide = self._grown(height), self._grown(width)
        if (tall, wide) == (height, width):
            return read, height, width

        def padded(rows: Span, columns: Span) -> Tensor:
            inside = read(_within(rows, height), _within(columns, width))
            right, below = columns.length - inside.shape[2], rows.length - inside.shape[1]
            return F.pad(inside[None], (0, right, 0, below), mode="replicate")[0]

        return padded, tall, wide


def reader_of(pixels: Tensor) -> Reader:
    """Return a reader of an image float32 [C, H, W] in memory."""
    return lambda rows, columns: pixels[:, rows.start : rows.stop, columns.start : columns.stop]


def _within(span: Span, side: int) -> Span:
    return Span(min(span.start, side - 1), min(span.stop, side))


def _with_visible_colours(tile: Tensor) -> Tensor:
    """Return the colours [3, h, w] of a tile with alpha; transparent pixels get those of the nearest visible ones.

    Transparent pixels are often black in files, which would become a dark rim where the edge is blended.
    """
    colours, alpha = tile[None, :3], tile[None, 3:]
    hidden = alpha == 0
    if not bool(hidden.any()) or bool(hidden.all()):
        return tile[:3]
    weight = (~hidden).float()
    known = colours * weight
    for _ in range(8):  # each pass extends the colours by one pixel
        near = F.avg_pool2d(weight, 3, 1, 1, count_include_pad=True)
        spread = F.avg_pool2d(known, 3, 1, 1, count_include_pad=True) / near.clamp_min(1e-6)
        reached = (weight == 0) & (near > 0)
        known = torch.where(reached, spread, known)
        weight = torch.where(reached, torch.ones_like(weight), weight)
    return torch.where(weight > 0, known, colours)[0]
