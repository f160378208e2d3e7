"""Tiles put together are the image that one run over the whole of it gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mold_core import UpscalerNetwork
from mold_core.upscaling.enlarge import Enlarger
from mold_esrgan.architectures import COMPACT_FEATHER, RRDB_FEATHER, RRDB_OVERLAP, RRDB_TILE, compact_overlap
from mold_esrgan.configs import CompactConfig, RRDBConfig
from mold_esrgan.networks import RRDBNet, SRVGGNetCompact

LEVEL = 1 / 255


def as_published(network: nn.Module) -> nn.Module:
    """Draw weights as training begins with them: BasicSR's default_init_weights, scaled by 0.1 in dense blocks."""
    torch.manual_seed(3)
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            layer.weight.data *= 0.1 if "rdb" in name else 1.0
            nn.init.zeros_(layer.bias)
    return network.eval()


def in_range(network: nn.Module, scale: int, unshuffle: int) -> nn.Module:
    """Scale the last convolution so that the result spreads over 0..1, as a trained network's does."""
    x = torch.rand(1, 3, 32 * unshuffle, 32 * unshuffle)
    with torch.inference_mode():
        made = network(x)
    network.conv_last.weight.data *= 0.25 / float(made.std())
    network.conv_last.bias.data += 0.5 - made.mean(dim=(0, 2, 3)) * (0.25 / float(made.std()))
    return network


@pytest.mark.parametrize("unshuffle", [1, 2, 4])
def test_an_rrdbnet_in_tiles_equals_the_whole(unshuffle: int) -> None:
    config = RRDBConfig(blocks=3, features=8, growth=4, unshuffle=unshuffle)
    module = in_range(as_published(RRDBNet(config)), config.scale, unshuffle)
    network = UpscalerNetwork(
        module=module, scale=config.scale, size_bytes=0, multiple=unshuffle, min_side=unshuffle,
        overlap=RRDB_OVERLAP * unshuffle, feather=RRDB_FEATHER * unshuffle,
    )  # fmt: skip
    check(network, 235 * unshuffle - 3, 340 * unshuffle + 1, tile=64 * unshuffle)


class LooksFar(nn.Module):
    """Takes the mean of all pixels up to 48 away along both sides: as far as trained networks look, and evenly."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        across = nn.functional.avg_pool2d(x, (1, 97), stride=1, padding=(0, 48), count_include_pad=False)
        return nn.functional.avg_pool2d(across, (97, 1), stride=1, padding=(48, 0), count_include_pad=False)


def test_what_is_48_pixels_away_is_in_view_wherever_a_tile_counts() -> None:
    network = UpscalerNetwork(
        module=LooksFar(), scale=1, size_bytes=0, overlap=RRDB_OVERLAP, feather=RRDB_FEATHER, tile=RRDB_TILE
    )
    image = torch.rand(3, 700, 900).round()
    whole = Enlarger(network, "cpu", tile=0).whole(image)
    tiled = Enlarger(network, "cpu", tile=RRDB_TILE)
    assert tiled.tiles(700, 900) == 4
    torch.testing.assert_close(tiled.whole(image), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("convs", "scale"), [(8, 4), (16, 2)])
def test_an_srvggnet_in_tiles_equals_the_whole(convs: int, scale: int) -> None:
    module = as_published(SRVGGNetCompact(CompactConfig(features=8, convs=convs, scale=scale)))
    network = UpscalerNetwork(
        module=module, scale=scale, size_bytes=0, overlap=compact_overlap(convs), feather=COMPACT_FEATHER
    )
    check(network, 100, 97, tile=64)


def check(network: UpscalerNetwork, height: int, width: int, tile: int) -> None:
    image = torch.rand(3, height, width)
    whole = Enlarger(network, "cpu", tile=0).whole(image)
    tiled = Enlarger(network, "cpu", tile=tile)
    assert tiled.tiles(height, width) > 2
    made = tiled.whole(image)
    assert made.shape == whole.shape == (3, height * network.scale, width * network.scale)
    assert float(whole.std()) > 0.1
    assert float((made - whole).abs().max()) <= LEVEL
