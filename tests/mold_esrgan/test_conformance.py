"""Both architectures keep what upscalers promise: the network inside mold as it is, RRDBNet with drawn weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import mold_nano
from mold_core.testing import check_upscaler
from mold_esrgan.architectures import RRDB, Compact
from mold_esrgan.configs import RRDBConfig
from mold_esrgan.networks import RRDBNet

NANO = Path(mold_nano.__file__).parent / "models" / "esrgan-nano" / "esrgan-nano-x4.safetensors"


def test_the_compact_network_inside_mold_keeps_its_promises() -> None:
    check_upscaler(Compact(), NANO)


@pytest.mark.parametrize("unshuffle", [1, 2])
def test_an_rrdbnet_keeps_its_promises(unshuffle: int, tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = RRDBNet(RRDBConfig(blocks=1, features=8, growth=4, unshuffle=unshuffle))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    network.conv_last.weight.data *= 0.1
    path = tmp_path / "rrdb.safetensors"
    save_file(network.state_dict(), path)
    check_upscaler(RRDB(), path)
