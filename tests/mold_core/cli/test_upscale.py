"""`mold upscale` as a person meets it: the executable, files, folders and pipes; with the upscaler inside mold."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fake_hub import fake_hub
from PIL import Image

Run = Callable[..., subprocess.CompletedProcess[Any]]

NANO = ("-m", "esrgan-nano-x4")


@pytest.fixture
def upscale(mold: Run) -> Run:
    """Run `mold upscale` with the plugins that it needs."""
    return partial(mold, "upscale", MOLD_PLUGINS="esrgan,nano", OMP_NUM_THREADS="1")


def image(format: str = "PNG", colour: str = "#4080c0") -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (12, 10), colour).save(buffer, format)
    return buffer.getvalue()


def test_a_file_is_enlarged_into_the_format_that_the_name_says(upscale: Run, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(image())
    done = upscale("photo.png", *NANO, "-o", "large.jpg")
    assert (done.returncode, done.stdout) == (0, "")
    assert "✓ large.jpg  12x10 → 48x40, esrgan-nano-x4:fp32" in done.stderr
    with Image.open(tmp_path / "large.jpg") as made:
        assert (made.size, made.format) == ((48, 40), "JPEG")
        assert max(abs(a - b) for a, b in zip(made.getpixel((24, 20)), (0x40, 0x80, 0xC0), strict=True)) < 12


def test_a_pipe_is_enlarged_into_a_pipe(upscale: Run, tmp_path: Path) -> None:
    done = upscale("-", *NANO, "--format", "webp", stdin=image("JPEG"), text=False)
    assert done.returncode == 0, done.stderr
    with Image.open(BytesIO(done.stdout)) as made:
        assert (made.size, made.format) == ((48, 40), "WEBP")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_goes_on_where_it_stopped(upscale: Run, tmp_path: Path) -> None:
    folder = tmp_path / "holiday"
    (folder / "beach").mkdir(parents=True)
    (folder / "a.png").write_bytes(image())
    (folder / "beach" / "b.jpg").write_bytes(image("JPEG"))
    (folder / "c.png").write_bytes(b"this is only text")
    first = upscale("holiday", *NANO, "-o", "large")
    assert first.returncode == 1
    assert "✗ holiday/c.png: image must be a PNG, JPEG, WebP, AVIF or HEIC image" in first.stderr
    assert first.stderr.endswith("1 of 3 could not be upscaled\n")
    made = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "large").rglob("*.*"))
    assert made == ["large/a.png", "large/beach/b.png"]
    before = (tmp_path / "large" / "a.png").stat().st_mtime_ns
    (folder / "c.png").write_bytes(image())
    (tmp_path / "large" / "beach" / "b.png").unlink()
    second = upscale("holiday", *NANO, "-o", "large")
    assert second.returncode == 0
    assert second.stderr.startswith("1 of 3 already exist\n")
    assert (tmp_path / "large" / "a.png").stat().st_mtime_ns == before
    assert (tmp_path / "large" / "c.png").is_file() and (tmp_path / "large" / "beach" / "b.png").is_file()


REFUSED = {
    "text": (["text.png"], 2, "must be a PNG, JPEG, WebP, AVIF or HEIC image"),
    "cut off": (["cut.png"], 2, "is truncated or damaged"),
    "empty": (["empty.png"], 2, "not an empty file"),
    "not there": (["nothing.png"], 2, "no such file: 'nothing.png'"),
    "tile": (["good.png", "--tile-size", "1"], 2, "tile_size must be 0 (no tiles) or at least 64, not 1"),
    "negative tile": (["good.png", "--tile-size", "-5"], 2, "-5"),
    "no upscaler": (["good.png", "-m", "flux-nano"], 2, "flux-nano:bf16 is not an upscaler"),
    "format": (["good.png", "-o", "a.gif"], 2, "--output 'a.gif' has the unknown suffix .gif"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_sentence_and_nothing_is_left(case: str, upscale: Run, tmp_path: Path) -> None:
    arguments, status, words = REFUSED[case]
    files = {"text.png": b"text", "cut.png": image()[:-20], "empty.png": b"", "good.png": image()}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    model = () if "-m" in arguments else NANO
    out = () if "-o" in arguments else ("-o", "out.png")
    done = upscale(*arguments, *model, *out)
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_an_upscaler_is_fetched_when_it_is_first_used(upscale: Run, tmp_path: Path, home: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save

    from mold_esrgan.configs import CompactConfig
    from mold_esrgan.networks import SRVGGNetCompact

    torch.manual_seed(0)
    weights = save(SRVGGNetCompact(CompactConfig(features=8, convs=1, scale=2)).state_dict())
    (tmp_path / "small.png").write_bytes(image())
    with fake_hub() as hub:
        file = hub.add("glass/lens", "lens.safetensors", weights)
        world = {
            "paths": [plugin_with_lens(tmp_path, len(weights), file.sha256)],
            "MOLD_PLUGINS": "esrgan,lens",
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "NO_PROXY": "*",
        }
        done = upscale("small.png", "-m", "lens", "-o", "large.png", **world)
        assert done.returncode == 0, done.stderr
        assert file.bytes_sent == len(weights)
    with Image.open(tmp_path / "large.png") as made:
        assert made.size == (24, 20)
    assert (home / "models" / "lens-fp32" / "lens.safetensors").read_bytes() == weights


def plugin_with_lens(tmp_path: Path, size_bytes: int, sha256: str) -> Path:
    """Write a plugin whose only model is an upscaler, and return the folder to import it from."""
    folder = tmp_path / "installed"
    about = folder / "lens-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lens\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[mold]\nlens = lens_plugin\n")
    (folder / "lens_plugin.py").write_text(
        "from pathlib import Path\nfrom mold_core import hookimpl, read_catalog\n\n"
        "@hookimpl\ndef mold_models():\n    return read_catalog(Path(__file__).with_name('lens.toml'))\n"
    )
    (folder / "lens.toml").write_text(
        f"""
        [[model]]
        name = "lens:fp32"
        family = "upscaler"
        licence = "CC0-1.0"
        [[model.files]]
        component = "upscaler"
        path = "lens-fp32/lens.safetensors"
        repo = "glass/lens"
        size_bytes = {size_bytes}
        sha256 = "{sha256}"
        """
    )
    return folder
