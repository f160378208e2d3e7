"""The signatures of all plugins of the repository, read once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mold_core import Plugins, load_plugins
from mold_core.recognition import Knowledge, knowledge_of

NANO = Path(__file__).parents[3] / "plugins" / "mold_nano" / "mold_nano" / "models"


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    return load_plugins()


@pytest.fixture(scope="session")
def knowledge(plugins: Plugins) -> Knowledge:
    return knowledge_of(plugins)


@pytest.fixture
def comfy(tmp_path: Path) -> Path:
    """The folder of a ComfyUI with the components of flux-nano where ComfyUI wants them."""
    root = tmp_path / "ComfyUI"
    for source, target in {
        "flux-nano/flux-nano.safetensors": "models/unet/house_painter_bf16.safetensors",
        "flux-nano/clip_l.safetensors": "models/clip/clip.safetensors",
        "flux-nano/t5.safetensors": "models/text_encoders/small.safetensors",
        "flux-nano/ae.safetensors": "models/vae/house.vae.safetensors",
        "esrgan-nano/esrgan-nano-x4.safetensors": "models/upscale_models/4x_House.safetensors",
    }.items():
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(NANO / source, root / target)
    (root / "comfy").mkdir()
    (root / "comfy" / "model.safetensors").write_bytes(b"of no interest")
    return root
