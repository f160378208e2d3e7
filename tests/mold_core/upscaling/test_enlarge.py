"""Tiles through a network: memory that runs out, transparency, odd sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mold_core import InsufficientMemoryError, UpscalerNetwork
from mold_core.upscaling.enlarge import Enlarger


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def network(module: Any = doubled, **fields: Any) -> UpscalerNetwork:
    return UpscalerNetwork(module=module, scale=2, size_bytes=0, **{"overlap": 8, "feather": 4, **fields})


class Small:
    """A network on a device with room for so many pixels at once."""

    def __init__(self, most: int, error: Exception) -> None:
        self.most, self.error, self.sides = most, error, []  # type: ignore[var-annotated]

    def __call__(self, x: Tensor) -> Tensor:
        self.sides.append(max(x.shape[2:]))
        if x.shape[0] * x.shape[2] * x.shape[3] > self.most:
            raise self.error
        return doubled(x)


OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_halves_the_tiles_and_goes_on(error: Exception) -> None:
    image = torch.rand(3, 150, 420)
    small = Small(110 * 110, error)
    enlarger = Enlarger(network(small), "cpu", tile=0)
    steps: list[tuple[int, int]] = []
    strips = enlarger.strips(lambda ys, xs: image[:, ys.start : ys.stop, xs.start : xs.stop], 150, 420,
                             lambda step, total, ms: steps.append((step, total)))  # fmt: skip
    made = torch.cat(list(strips), dim=1)
    torch.testing.assert_close(made, doubled(image[None])[0])
    assert enlarger.tile == 75  # tiles of 210 x 150 pixels were too large as well
    assert steps == [(1, 1)]
    assert max(small.sides[len(small.sides) // 2 :]) <= enlarger.tile


def test_a_batch_that_is_too_large_is_taken_apart_before_its_tiles_are() -> None:
    image = torch.rand(3, 100, 400)
    enlarger = Enlarger(network(Small(120 * 120, OUT_OF_MEMORY[0])), "cpu", tile=120, together=4)
    torch.testing.assert_close(enlarger.whole(image), doubled(image[None])[0])
    assert enlarger.tile == 120


def test_too_little_memory_for_the_smallest_tile_is_said() -> None:
    enlarger = Enlarger(network(Small(10, OUT_OF_MEMORY[0])), "cpu", tile=0)
    with pytest.raises(InsufficientMemoryError, match="not enough memory for a tile of 64 x 64"):
        enlarger.whole(torch.rand(3, 64, 64))


def test_other_errors_of_a_network_are_not_taken_for_a_lack_of_memory() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        Enlarger(network(broken), "cpu", tile=64).whole(torch.rand(3, 80, 80))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 7), (65, 130)])
def test_images_of_any_size_are_padded_to_what_the_network_takes(height: int, width: int) -> None:
    seen = set()

    def picky(x: Tensor) -> Tensor:
        seen.add((x.shape[2] % 4, x.shape[3] % 4, min(x.shape[2:]) >= 16))
        return doubled(x)

    image = torch.rand(3, height, width)
    made = Enlarger(network(picky, multiple=4, min_side=16), "cpu", tile=64).whole(image)
    torch.testing.assert_close(made, doubled(image[None])[0])
    assert seen == {(0, 0, True)}


def test_alpha_goes_through_the_network_only_where_it_varies() -> None:
    runs = []

    def counted(x: Tensor) -> Tensor:
        runs.append(len(x))
        return doubled(x)

    image = torch.rand(4, 64, 128)
    image[3] = 1.0
    image[3, 20:40, 10:20] = 0.3
    made = Enlarger(network(counted, overlap=0, feather=0), "cpu", tile=64).whole(image)
    torch.testing.assert_close(made, doubled(image[None])[0])
    assert sum(runs) == 3  # the colours of two tiles, the alpha of one


def test_what_lies_under_transparent_pixels_does_not_darken_the_edge() -> None:
    def blurred(x: Tensor) -> Tensor:
        return doubled(F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1))

    image = torch.zeros(4, 64, 64)
    image[:, :, 32:] = 1.0  # white on the right; black, but invisible, on the left
    made = Enlarger(network(blurred), "cpu", tile=64).whole(image)
    visible = made[3] > 0
    assert float(made[:3][:, visible].min()) > 0.99
