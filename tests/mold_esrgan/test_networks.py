"""Real-ESRGAN's networks compared with the published definition, written out plainly here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from mold_core import CheckpointError, LoadContext
from mold_core.upscaling.loading import load_network
from mold_esrgan.architectures import RRDB, Compact
from mold_esrgan.configs import CompactConfig, RRDBConfig
from mold_esrgan.networks import RRDBNet, SRVGGNetCompact

State = Mapping[str, Tensor]


def conv(x: Tensor, state: State, name: str) -> Tensor:
    return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)


def plain_rrdbnet(x: Tensor, state: State, *, blocks: int, unshuffle: int) -> Tensor:
    """RRDBNet as BasicSR defines it (basicsr/archs/rrdbnet_arch.py), for x4 files and those that unshuffle."""
    x = F.pixel_unshuffle(x, unshuffle) if unshuffle > 1 else x
    features = conv(x, state, "conv_first")
    body = features
    for block in range(blocks):
        before = body
        for dense in (1, 2, 3):
            name = f"body.{block}.rdb{dense}.conv"
            x1 = F.leaky_relu(conv(body, state, f"{name}1"), 0.2)
            x2 = F.leaky_relu(conv(torch.cat((body, x1), 1), state, f"{name}2"), 0.2)
            x3 = F.leaky_relu(conv(torch.cat((body, x1, x2), 1), state, f"{name}3"), 0.2)
            x4 = F.leaky_relu(conv(torch.cat((body, x1, x2, x3), 1), state, f"{name}4"), 0.2)
            x5 = conv(torch.cat((body, x1, x2, x3, x4), 1), state, f"{name}5")
            body = x5 * 0.2 + body
        body = body * 0.2 + before
    features = features + conv(body, state, "conv_body")
    for stage in ("conv_up1", "conv_up2"):
        features = F.leaky_relu(conv(F.interpolate(features, scale_factor=2, mode="nearest"), state, stage), 0.2)
    return conv(F.leaky_relu(conv(features, state, "conv_hr"), 0.2), state, "conv_last")


def plain_compact(x: Tensor, state: State, *, convs: int, scale: int) -> Tensor:
    """SRVGGNetCompact as Real-ESRGAN defines it (realesrgan/archs/srvgg_arch.py)."""
    out = x
    for layer in range(convs + 1):
        out = F.prelu(conv(out, state, f"body.{2 * layer}"), state[f"body.{2 * layer + 1}.weight"])
    out = F.pixel_shuffle(conv(out, state, f"body.{2 * convs + 2}"), scale)
    return out + F.interpolate(x, scale_factor=scale, mode="nearest")


def random_state(network: torch.nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(value.shape, generator=generator) * (0.05 if value.ndim == 4 else 0.1)
        for name, value in network.state_dict().items()
    }


def context() -> LoadContext:
    return LoadContext(device="cpu", threads=1, cache_dir=Path("unused"), report=lambda event: None)


@pytest.fixture(autouse=True)
def in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mold_esrgan.loading.convolution_dtype", lambda device: torch.float32)


def written(state: State, tmp_path: Path) -> Path:
    path = tmp_path / "network.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


def first_release(state: State) -> dict[str, Tensor]:
    """Rename the tensors as ESRGAN's first code did."""
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "body":
            name = f"RRDB_trunk.{parts[1]}.{parts[2].upper()}.{parts[3]}.{parts[4]}"
        name = name.replace("conv_body", "trunk_conv").replace("conv_up", "upconv").replace("conv_hr", "HRconv")
        renamed[name] = value
    return renamed


def numbered(state: State, blocks: int) -> dict[str, Tensor]:
    """Rename the tensors as the oldest files of ESRGAN have them."""
    outer = {"conv_first": "model.0", "conv_body": f"model.1.sub.{blocks}"}
    outer |= {"conv_up1": "model.3", "conv_up2": "model.6", "conv_hr": "model.8", "conv_last": "model.10"}
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "body":
            renamed[f"model.1.sub.{parts[1]}.{parts[2].upper()}.{parts[3]}.0.{parts[4]}"] = value
        else:
            renamed[f"{outer[parts[0]]}.{parts[1]}"] = value
    return renamed


def trunk_in_body(state: State, blocks: int) -> dict[str, Tensor]:
    return {name.replace("conv_body", f"body.{blocks}"): value for name, value in state.items()}


def below(wrapper: str, state: State) -> dict[str, Tensor]:
    return {f"{wrapper}.{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    ("blocks", "features", "unshuffle", "scale"), [(23, 16, 1, 4), (6, 16, 1, 4), (1, 64, 2, 2), (1, 64, 4, 1)]
)
def test_an_rrdbnet_gives_the_published_tensors(
    blocks: int, features: int, unshuffle: int, scale: int, tmp_path: Path
) -> None:
    state = random_state(
        RRDBNet(RRDBConfig(blocks=blocks, features=features, growth=features // 2, unshuffle=unshuffle))
    )
    network = load_network(written(state, tmp_path), [Compact(), RRDB()], context())
    assert (network.scale, network.multiple) == (scale, unshuffle)
    x = torch.rand(1, 3, 8, 12)
    with torch.inference_mode():
        made, wanted = network.module(x), plain_rrdbnet(x, state, blocks=blocks, unshuffle=unshuffle)
    assert made.shape == (1, 3, 8 * scale, 12 * scale)
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize(("features", "convs", "scale"), [(64, 16, 4), (64, 32, 4), (32, 8, 2), (24, 0, 3)])
def test_an_srvggnet_gives_the_published_tensors(features: int, convs: int, scale: int, tmp_path: Path) -> None:
    state = random_state(SRVGGNetCompact(CompactConfig(features=features, convs=convs, scale=scale)))
    network = load_network(written(below("params", state), tmp_path), [RRDB(), Compact()], context())
    assert network.scale == scale
    x = torch.rand(2, 3, 11, 14)
    with torch.inference_mode():
        made, wanted = network.module(x), plain_compact(x, state, convs=convs, scale=scale)
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["first release", "numbered", "trunk in body", "params_ema", "state_dict.params"])
def test_every_layout_of_an_rrdbnet_is_the_same_network(layout: str, tmp_path: Path) -> None:
    state = random_state(RRDBNet(RRDBConfig(blocks=2, features=16, growth=8)))
    stored = {
        "first release": first_release(state),
        "numbered": numbered(state, 2),
        "trunk in body": trunk_in_body(state, 2),
        "params_ema": below("params_ema", state),
        "state_dict.params": below("state_dict.params", state),
    }[layout]
    network = load_network(written(stored, tmp_path), [RRDB(), Compact()], context())
    x = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        wanted = plain_rrdbnet(x, state, blocks=2, unshuffle=1)
        torch.testing.assert_close(network.module(x), wanted, rtol=1e-4, atol=1e-5)


def test_averaged_weights_are_taken_before_others(tmp_path: Path) -> None:
    averaged = random_state(SRVGGNetCompact(CompactConfig(features=8, convs=1)))
    other = {name: value * 2 for name, value in averaged.items()}
    path = written({**below("params", other), **below("params_ema", averaged)}, tmp_path)
    x = torch.rand(1, 3, 6, 6)
    with torch.inference_mode():
        made = load_network(path, [Compact()], context()).module(x)
        torch.testing.assert_close(made, plain_compact(x, averaged, convs=1, scale=4))


def test_an_unknown_network_is_refused_by_name(tmp_path: Path) -> None:
    path = written({"layers.0.weight": torch.zeros(1)}, tmp_path)
    with pytest.raises(CheckpointError, match=r"no upscaler architecture recognises .*'layers.0.weight'.*RRDBNet"):
        load_network(path, [RRDB(), Compact()], context())


def test_a_network_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    state = random_state(RRDBNet(RRDBConfig(blocks=1)))
    del state["conv_hr.bias"]
    with pytest.raises(CheckpointError, match=r"lacks conv_hr\.bias"):
        load_network(written(state, tmp_path), [RRDB()], context())


def test_pickled_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "RealESRGAN_x4plus.pth"
    torch.save({"params_ema": {}}, path)
    with pytest.raises(CheckpointError, match="can run code when it is loaded"):
        load_network(path, [RRDB()], context())


def test_bf16_stays_close_to_fp32() -> None:
    state = random_state(RRDBNet(RRDBConfig(blocks=2, features=16, growth=8)))
    networks = [RRDBNet(RRDBConfig(blocks=2, features=16, growth=8)) for _ in range(2)]
    for network in networks:
        network.load_state_dict(state)
    x = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        networks[1].compute_in(torch.bfloat16)
        exact, fast = networks[0](x), networks[1](x)
    assert fast.dtype == torch.float32
    assert float((fast - exact).abs().max()) < 0.1 * float(exact.std())
