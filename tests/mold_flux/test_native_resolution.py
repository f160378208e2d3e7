"""Models that draw one size only: other sizes are drawn near it and scaled."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from mold_core import GenerateRequest
from mold_flux.native_resolution import NativeSize
from mold_flux.transformer import FluxConfig, rope

NATIVE = NativeSize(side=128)


@pytest.mark.parametrize(
    ("asked", "drawn"),
    [
        ((128, 128), (128, 128)),
        ((256, 256), (128, 128)),
        ((96, 96), (128, 128)),
        ((192, 128), (192, 128)),
        ((96, 144), (128, 192)),
        ((256, 144), (224, 128)),
    ],
)
def test_a_size_is_drawn_with_its_shorter_side_native(asked: tuple[int, int], drawn: tuple[int, int]) -> None:
    request = GenerateRequest(prompt="a", width=asked[0], height=asked[1])
    got = NATIVE.at_native_size(request)
    assert (got.width, got.height) == drawn
    assert NATIVE.at_requested_size(Image.new("RGB", drawn), request).size == asked


def test_tokens_are_spread_over_the_places_the_model_knows() -> None:
    config = FluxConfig(
        in_channels=64, out_channels=64, hidden_size=160, heads=4, depth_double=1, depth_single=1, context_dim=128,
        pooled_dim=64, axes_dim=(8, 16, 16), theta=10_000, guidance_embed=False, mlp_ratio=4.0,
    )  # fmt: skip
    plain, same, wide = (rope(config, 2, 8, width, grid=grid) for width, grid in ((8, None), (8, (8, 8)), (12, (8, 8))))
    assert torch.equal(plain, same)
    assert wide.shape[0] == 2 + 8 * 12
    step, turn = 8 / 12, 2 * torch.pi
    first, last = (float(torch.angle(wide[index, 12])) for index in (2, 13))  # the fastest turn of the columns' axis
    assert (first, last) == pytest.approx((step / 2 - 0.5, 8 - step / 2 - 0.5 - turn), abs=1e-5)
