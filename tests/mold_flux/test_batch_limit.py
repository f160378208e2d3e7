"""How many images FLUX.1 computes together: as many as keep the device busy."""

from __future__ import annotations

import pytest

from mold_core import GenerateRequest
from mold_core.testing import sketch_model
from mold_flux.family import FluxFamily


@pytest.mark.parametrize(
    ("device", "side", "limit"),
    [("cuda:0", 1024, 1), ("cuda:1", 2048, 1), ("cuda:0", 512, 4), ("cuda:0", 256, 16), ("cpu", 1024, None)],
)
def test_a_gpu_gets_one_large_image_or_several_small_ones(device: str, side: int, limit: int | None) -> None:
    request = GenerateRequest(prompt="p", width=side, height=side)
    assert FluxFamily().batch_limit(sketch_model(), request, device) == limit
