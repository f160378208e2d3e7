"""The plugin of the tutorial: a stranger's package, installed by pip and used through the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageStat

from mold_core.media.metadata import read_metadata

EXAMPLE = Path(__file__).parents[2] / "examples" / "mold_plasma"

Mold = Callable[..., subprocess.CompletedProcess[Any]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the example, without a network."""
    source = tmp_path_factory.mktemp("source") / "mold_plasma"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__"))
    target = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", target, source], check=True)
    return target


@pytest.fixture
def plasma(mold: Mold, site: Path) -> Mold:
    """Run `mold` with the example as its only plugin."""

    def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[Any]:
        return mold(*arguments, paths=[site], MOLD_PLUGINS="plasma", **options)

    return run


def test_the_whole_plugin_has_under_70_lines() -> None:
    (module,) = EXAMPLE.glob("*.py")
    assert len(module.read_text("utf-8").splitlines()) < 70


def test_it_is_listed_with_what_it_brings(plasma: Mold) -> None:
    infos = {info["name"]: info for info in json.loads(plasma("plugins", "--json").stdout)}
    assert infos["plasma"] == {
        "name": "plasma",
        "module": "mold_plasma",
        "version": "0.1.0",
        "provides": {"family": ["plasma"], "model": ["plasma:v1"]},
        "failure": None,
        "blocked": False,
    }


def test_its_model_is_in_the_list(plasma: Mold) -> None:
    assert "plasma:v1" in plasma("list").stdout
    assert "capabilities  text-to-image" in plasma("info", "plasma").stdout


def test_it_makes_a_image(plasma: Mold, tmp_path: Path) -> None:
    done = plasma("run", "-m", "plasma", "a storm", "--seed", "7", "-o", "storm.png")
    assert done.returncode == 0, done.stderr
    data = (tmp_path / "storm.png").read_bytes()
    image = Image.open(BytesIO(data))
    assert image.size == (128, 128)
    assert min(ImageStat.Stat(image.convert("RGB")).stddev) > 20
    metadata = read_metadata(data)
    assert metadata is not None
    assert (metadata.prompt, metadata.model, metadata.seed) == ("a storm", "plasma:v1", 7)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_image(plasma: Mold) -> None:
    first, again, other = (plasma("run", "-m", "plasma", "a", "--seed", s, text=False).stdout for s in ("7", "7", "8"))
    assert first == again != other


def test_sizes_follow_its_rules(plasma: Mold) -> None:
    done = plasma("run", "-m", "plasma", "a", "--width", "33", "--height", "1000", "--seed", "1", text=False)
    assert Image.open(BytesIO(done.stdout)).size == (34, 1000)
    assert done.stderr.decode() == "note: dimensions adjusted from 33x1000 to 34x1000\n"


def test_it_keeps_the_promises_of_a_family(site: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(site)!r})
import mold_plasma
from mold_core.testing import check_family
check_family(mold_plasma.PlasmaFamily(), mold_plasma.mold_models()[0], width=32, height=16)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_it_needs_no_torch(mold: Mold, site: Path, tmp_path: Path) -> None:
    blocker = tmp_path / "blocker"
    blocker.mkdir()
    (blocker / "torch.py").write_text("raise ImportError('there is no torch here')")
    options = {"paths": [blocker, site], "MOLD_PLUGINS": "plasma", "MOLD_DEVICE": "auto"}
    done = mold("run", "-m", "plasma", "a", "-o", "a.png", **options)
    assert done.returncode == 0, done.stderr


def test_without_the_package_the_model_is_unknown(mold: Mold) -> None:
    done = mold("run", "-m", "plasma", "a", "-o", "a.png", MOLD_PLUGINS="plasma")
    assert done.returncode == 1
    assert done.stderr.startswith("error: unknown model 'plasma'")
