"""`mold run` with images, on the model that ships."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mold_core import LoraWeight
from mold_core.cli.loras import lora_weight

Mold = Callable[..., subprocess.CompletedProcess[Any]]

IMAGE = Image.linear_gradient("L").resize((128, 96)).convert("RGB")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    IMAGE.save(tmp_path / "source.png")
    mask = Image.new("L", (128, 96), 0)
    ImageDraw.Draw(mask).rectangle((64, 0, 127, 95), fill=255)
    mask.save(tmp_path / "mask.png")
    return tmp_path


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int)


def test_a_image_is_changed_where_the_mask_is_white(mold: Mold, images: Path) -> None:
    done = mold(
        "run", "a red house", "-i", "source.png", "--mask", "mask.png", "--strength", "1", "-o", "x.png", "--seed", "1"
    )
    assert done.returncode == 0, done.stderr
    made = pixels((images / "x.png").read_bytes())
    assert made.shape == (96, 128, 3)
    assert (made[:, :64] == np.asarray(IMAGE)[:, :64]).all()
    assert np.abs(made[:, 80:] - np.asarray(IMAGE)[:, 80:]).mean() > 20


def test_the_image_may_come_through_a_pipe(mold: Mold, images: Path) -> None:
    data = (images / "source.png").read_bytes()
    done = mold("run", "a red house", "--image", "-", "--strength", "0", stdin=data, text=False)
    assert done.returncode == 0, done.stderr
    assert pixels(done.stdout).shape == (96, 128, 3)
    assert abs(pixels(done.stdout).mean() - 127) < 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--strength", "0.5"), "--strength needs an input image; pass one with --image"),
        (("--mask", "mask.png"), "--mask needs an input image; pass one with --image"),
        (("--image", "absent.png"), "--image 'absent.png' cannot be read: No such file or directory"),
        (("--image", "."), "--image '.' cannot be read: Is a directory"),
        (("--image", "empty"), "--image 'empty' is empty"),
        (("--image", "text"), "--image 'text' must be a PNG, JPEG, WebP, AVIF or HEIC image, not a web page"),
        (("--image", "source.png", "--strength", "2"), "strength must be from 0 to 1, not 2.0"),
    ],
)
def test_what_cannot_be_used_is_one_line(mold: Mold, images: Path, arguments: tuple[str, ...], message: str) -> None:
    (images / "empty").touch()
    (images / "text").write_text("<html>")
    done = mold("run", "a red house", *arguments, "-o", "x.png")
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [f"error: {message}"]
    assert not (images / "x.png").exists()


def test_adapters_are_listed(mold: Mold, home: Path) -> None:
    assert mold("list", "--loras").stdout == "No LoRAs: put .safetensors files into the folder loras in MOLD_HOME.\n"
    (home / "loras" / "sub").mkdir(parents=True)
    (home / "loras" / "sub" / "ink.safetensors").write_bytes(b"1" * 1234)
    assert mold("list", "--loras").stdout == "sub/ink    1.2 kB\n"
    assert '"name": "sub/ink"' in mold("list", "--loras", "--json").stdout


@pytest.mark.parametrize(
    ("text", "path", "scale"),
    [
        ("ink", "ink", 1.0),
        ("ink:0.5", "ink", 0.5),
        ("v1.5", "v1.5", 1.0),
        ("a:b", "a:b", 1.0),
        ("a:b:2", "a:b", 2.0),
        (":1", ":1", 1.0),
        ("here.safetensors", "{here}/here.safetensors", 1.0),
        ("here.safetensors:0.25", "{here}/here.safetensors", 0.25),
    ],
)
def test_an_adapter_is_a_name_or_a_file_and_a_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, path: str, scale: float
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.safetensors").touch()
    assert lora_weight(text) == LoraWeight(path=path.format(here=tmp_path), scale=scale)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ("absent", "loras[0].path is not a LoRA in "),
        ("style:3", "loras[0].scale must be from 0 to 2, not 3.0"),
        ("/absent/x.safetensors", "loras[0].path is not a file: '/absent/x.safetensors'"),
    ],
)
def test_an_adapter_that_is_none_is_one_line(mold: Mold, tmp_path: Path, lora: str, message: str) -> None:
    done = mold("run", "a red house", "--lora", lora, "-o", "x.png")
    assert done.returncode == 2
    assert f"\nerror: {message}" in f"\n{done.stderr}"


def test_a_model_of_ones_own_is_described_in_config_toml(mold: Mold, home: Path, tmp_path: Path) -> None:
    from mold_nano.plugin import CATALOG

    shutil.copy(CATALOG.parent / "flux-nano" / "flux-nano.safetensors", tmp_path / "renamed.bin")
    home.mkdir(parents=True)
    (home / "config.toml").write_text(
        f"""
[models."my:model"]
like = "flux-nano:bf16"
description = "My own"
files = {{ transformer = "{tmp_path / "renamed.bin"}" }}
defaults = {{ width = 96, steps = 2 }}
"""
    )
    own, shipped = (
        mold("run", "-m", model, "a red house", "--seed", "1", "--width", "96", "--steps", "2", text=False)
        for model in ("my:model", "flux-nano")
    )
    assert own.returncode == 0, own.stderr
    assert (pixels(own.stdout) == pixels(shipped.stdout)).all()
    assert pixels(own.stdout).shape == (128, 96, 3)
    assert "my:model" in mold("list").stdout
    (tmp_path / "renamed.bin").unlink()
    gone = mold("run", "-m", "my:model", "a red house", "-o", "x.png")
    assert gone.returncode == 1
    assert "renamed.bin" in gone.stderr
