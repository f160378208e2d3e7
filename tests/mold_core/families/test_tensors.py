"""Images become pixels and pixels images; seeds become noise; results are cached."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mold_core.families import (
    RecentValues,
    images_from_pixels,
    like_weights,
    pixels_from_images,
    required,
    seeded_generator,
)


def test_an_image_survives_its_way_through_pixels() -> None:
    levels = np.arange(2 * 3 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4, 3) * 3
    images = [Image.fromarray(image) for image in levels]
    pixels = pixels_from_images(images)
    assert pixels.shape == (2, 3, 3, 4)
    assert pixels.min() >= -1
    assert pixels.max() <= 1
    assert [image.tobytes() for image in images_from_pixels(pixels)] == [image.tobytes() for image in images]


def test_pixels_that_are_too_bright_or_too_dark_are_clamped() -> None:
    pixels = torch.tensor([-3.0, 0.0, 3.0]).view(1, 3, 1, 1).to(torch.bfloat16)
    (image,) = images_from_pixels(pixels)
    assert image.getpixel((0, 0)) == (0, 128, 255)
    assert pixels[0, 0, 0, 0] == -3  # the caller's tensor is unchanged


def test_inputs_take_the_dtype_of_the_floating_point_weights() -> None:
    network = nn.Module()
    network.ids = nn.Parameter(torch.zeros(1, dtype=torch.int8), requires_grad=False)
    network.scale = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    assert like_weights(torch.zeros(2), network).dtype == torch.bfloat16


def test_large_seeds_differ_and_small_ones_are_those_of_torch() -> None:
    def noise(seed: int) -> float:
        return torch.rand(1, generator=seeded_generator(seed)).item()

    assert noise(7) == torch.rand(1, generator=torch.Generator().manual_seed(7)).item()
    assert len({noise(7), noise(7 + 2**32), noise(2**64 - 1), noise(2**64 - 2)}) == 4


def test_only_what_is_not_cached_is_computed() -> None:
    computed: list[list[str]] = []

    def compute(keys: list[str]) -> list[str]:
        computed.append(keys)
        return [key.upper() for key in keys]

    cache: RecentValues[str, str] = RecentValues(2)
    assert cache.get(["a", "b", "a"], compute) == ["A", "B", "A"]
    assert cache.get(["a", "c", "d"], compute) == ["A", "C", "D"]  # more than the limit
    assert cache.get(["d", "c"], compute) == ["D", "C"]
    assert computed == [["a", "b"], ["c", "d"]]
    assert "c" in cache and "a" not in cache  # the two used last


def test_a_result_that_fails_is_not_cached() -> None:
    cache: RecentValues[str, str] = RecentValues(2)

    def fail(keys: list[str]) -> list[str]:
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        cache.get(["a"], fail)
    assert cache.get(["a"], lambda keys: ["A"]) == ["A"]


def test_a_request_that_is_not_complete_is_a_fault_of_the_caller() -> None:
    assert required(0) == 0
    with pytest.raises(AssertionError, match="not completed"):
        required(None)
