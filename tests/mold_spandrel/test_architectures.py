"""Small networks with random weights, each of another architecture: mold's result is that of spandrel."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

if find_spec("spandrel") is None or find_spec("mold_spandrel") is None:
    pytest.skip("spandrel is not installed; make setup installs it", allow_module_level=True)


from mold_core import CheckpointError, Engine, FileUpscaleRequest, Settings
from mold_core.hookspecs import LoadContext
from mold_core.testing import check_upscaler
from mold_core.upscaling.loading import load_network
from mold_spandrel.architectures import Spandrel
from mold_spandrel.registry import registry

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")  # of DAT


def network(name: str) -> nn.Module:
    """Return a small network."""
    registry()  # imports spandrel without torchvision
    from spandrel.architectures.DAT import DAT
    from spandrel.architectures.HAT import HAT
    from spandrel.architectures.OmniSR import OmniSR
    from spandrel.architectures.PLKSR import RealPLKSR
    from spandrel.architectures.RealCUGAN import UpCunet2x
    from spandrel.architectures.SAFMN import SAFMN
    from spandrel.architectures.SPAN import SPAN
    from spandrel.architectures.SwinIR import SwinIR

    torch.manual_seed(5)
    makers: dict[str, Callable[[], Any]] = {
        "SPAN": lambda: SPAN(num_in_ch=3, num_out_ch=3, feature_channels=12, upscale=4),
        "RealPLKSR": lambda: RealPLKSR(dim=16, n_blocks=2, upscaling_factor=2, kernel_size=5),
        "DAT": lambda: DAT(embed_dim=32, split_size=[2, 4], depth=[2], num_heads=[2], expansion_factor=2, upscale=2),
        "HAT": lambda: HAT(
            embed_dim=24, depths=(2,), num_heads=(2,), window_size=8, upscale=2, squeeze_factor=8, num_feat=16
        ),
        "SwinIR": lambda: SwinIR(
            embed_dim=24, depths=[2], num_heads=[2], window_size=8, mlp_ratio=2, upscale=2, upsampler="pixelshuffle"
        ),
        "OmniSR": lambda: OmniSR(num_feat=16, up_scale=2),
        "Real-CUGAN": lambda: UpCunet2x(),
        "SAFMN": lambda: SAFMN(dim=12, n_blocks=2, upscaling_factor=2),
    }
    return makers[name]().eval()


SCALES = {
    "SPAN": 4,
    "RealPLKSR": 2,
    "DAT": 2,
    "HAT": 2,
    "SwinIR": 2,
    "OmniSR": 2,
    "Real-CUGAN": 2,
    "SAFMN": 2,
}


def saved(state: dict[str, torch.Tensor], path: Path) -> Path:
    save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, path)
    return path


def loaded(path: Path) -> Any:
    context = LoadContext(device="cpu", threads=1, cache_dir=path.parent, report=lambda event: None)
    return load_network(path, [Spandrel()], context)


@pytest.mark.parametrize("name", SCALES)
def test_every_architecture_gives_what_spandrel_gives(name: str, tmp_path: Path) -> None:
    state = network(name).state_dict()
    upscaler = loaded(saved(state, tmp_path / "a.safetensors"))
    reference = registry().load({key: tensor.clone() for key, tensor in state.items()})
    pixels = torch.rand(2, 3, 32, 48)
    assert upscaler.scale == SCALES[name]
    assert 32 % upscaler.multiple == 0
    expected = torch.cat([reference(image[None]) for image in pixels])
    torch.testing.assert_close(upscaler.module(pixels), expected, rtol=0, atol=1e-5)
    assert upscaler.module(pixels).shape == (2, 3, 32 * upscaler.scale, 48 * upscaler.scale)


@pytest.mark.parametrize("name", ["SPAN", "SwinIR"])
def test_sizes_are_declared_as_they_are_needed(name: str, tmp_path: Path) -> None:
    check_upscaler(Spandrel(), saved(network(name).state_dict(), tmp_path / "a.safetensors"))


def test_a_wrapper_around_the_names_is_taken_off(tmp_path: Path) -> None:
    state = {f"params_ema.{name}": tensor for name, tensor in network("SPAN").state_dict().items()}
    assert loaded(saved(state, tmp_path / "a.safetensors")).scale == 4


def test_networks_of_mold_are_left_to_mold(tmp_path: Path) -> None:
    state = {"body.0.weight": torch.zeros(8, 3, 3, 3), "body.1.weight": torch.zeros(8), "body.0.bias": torch.zeros(8)}
    state |= {"body.2.weight": torch.zeros(48, 8, 3, 3), "body.2.bias": torch.zeros(48)}
    with pytest.raises(CheckpointError, match="no upscaler architecture recognises"):
        loaded(saved(state, tmp_path / "a.safetensors"))


OTHERS = {
    "a LoRA": {"a.lora_down.weight": (4, 3072), "a.lora_up.weight": (3072, 4)},
    "an autoencoder": {"encoder.conv_in.weight": (128, 3, 3, 3), "decoder.conv_out.weight": (3, 128, 3, 3)},
    "an encoder of images": {"embeddings.patch_embedding.weight": (1024, 3, 14, 14)},
    "a giant": {"conv.weight": (8, 3, 3, 3), "blocks.weight": (100_000, 10_000)},
}


def test_files_of_other_kinds_are_told_without_importing_spandrel() -> None:
    script = (
        "import sys\nfrom types import SimpleNamespace as S\nfrom mold_spandrel.architectures import Spandrel\n"
        f"for shapes in {list(OTHERS.values())!r}:\n"
        "    assert not Spandrel().recognises({name: S(shape=shape) for name, shape in shapes.items()})\n"
        "assert not {'torch', 'spandrel'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_damaged_network_is_refused_by_the_name_of_its_architecture(tmp_path: Path) -> None:
    state = network("SPAN").state_dict()
    state["block_1.c1_r.sk.weight"] = torch.zeros(1, 2, 3, 3)
    with pytest.raises(CheckpointError, match="damaged SPAN network"):
        loaded(saved(state, tmp_path / "a.safetensors"))


def test_a_network_for_grey_images_is_refused(tmp_path: Path) -> None:
    from spandrel.architectures.SPAN import SPAN

    state = SPAN(num_in_ch=1, num_out_ch=1, feature_channels=8, upscale=2, norm=False).state_dict()
    with pytest.raises(CheckpointError, match="takes images of 1 channels and returns 1"):
        loaded(saved(state, tmp_path / "a.safetensors"))


def test_missing_torchvision_leaves_nothing_behind() -> None:
    registry()
    assert "torchvision" not in sys.modules or hasattr(sys.modules["torchvision"], "__file__")


def test_a_model_of_spandrel_upscales_an_image_in_tiles(home: Path, tmp_path: Path) -> None:
    path = saved(network("SPAN").state_dict(), tmp_path / "span.safetensors")
    home.mkdir()
    (home / "config.toml").write_text(
        f'[models."span:x4"]\nlike = "real-esrgan-x4plus:fp16"\nfiles = {{ upscaler = "{path.as_posix()}" }}\n'
    )
    Image.linear_gradient("L").resize((90, 50)).convert("RGB").save(tmp_path / "a.png")
    with Engine(Settings.load({"device": "cpu"})) as engine:
        request = FileUpscaleRequest(source=tmp_path / "a.png", target=tmp_path / "b.png", model="span", tile_size=72)
        assert engine.upscale(request).scale_factor == 4
    with Image.open(tmp_path / "b.png") as image:
        assert image.size == (360, 200)
