"""The scripts in examples/ run as they are, are short, and make what they say."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from http_server import serving
from PIL import Image
from safetensors.torch import save_file

SCRIPTS = sorted((Path(__file__).parents[2] / "examples" / "scripts").glob("*.py"))


@pytest.fixture
def here(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOLD_DEVICE", "cpu")
    return tmp_path


@pytest.fixture
def surroundings(script: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a script needs besides: a LoRA in the folder of LoRAs, a server."""
    if script.stem == "lora_sweep":
        (home / "loras").mkdir(parents=True)
        chance = torch.Generator().manual_seed(1)
        down, up = torch.randn(4, 160, generator=chance) / 12, torch.randn(480, 4, generator=chance)
        layer = "lora_unet_double_blocks_0_img_attn_qkv"
        tensors = {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
        save_file(tensors, home / "loras" / "ink.safetensors")
    if script.stem != "remote":
        yield
        return
    with serving(tmp_path / "elsewhere") as server:
        monkeypatch.setenv("MOLD_HOST", f"127.0.0.1:{server.port}")
        yield


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_short_and_leaves_images(script: Path, here: Path, surroundings: None) -> None:
    code = [line for line in script.read_text("utf-8").splitlines() if line.strip()]
    assert len(code) <= 22  # twenty lines, and what it is for
    runpy.run_path(str(script), run_name="__main__")
    images = list(here.rglob("*.png"))
    assert images or list(here.glob("*.mp4"))
    for path in images:
        with Image.open(path) as image:
            assert np.asarray(image.convert("RGB")).std() > 20, path  # it shows something


def test_the_night_is_darker_than_the_day(here: Path) -> None:
    runpy.run_path(str(SCRIPTS[0].with_name("image_to_image.py")), run_name="__main__")
    day, night = (np.asarray(Image.open(here / f"{name}.png").convert("L"), float).mean() for name in ("day", "night"))
    assert night < day - 40


def test_there_are_enough_scripts() -> None:
    assert len(SCRIPTS) >= 10
