"""The scripts in examples/ run as they are, are short, and make what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPTS = sorted((Path(__file__).parents[2] / "examples" / "scripts").glob("*.py"))


@pytest.fixture
def here(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOLD_DEVICE", "cpu")
    return tmp_path


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_short_and_leaves_pictures(script: Path, here: Path) -> None:
    code = [line for line in script.read_text("utf-8").splitlines() if line.strip()]
    assert len(code) <= 22  # twenty lines, and what it is for
    runpy.run_path(str(script), run_name="__main__")
    pictures = list(here.glob("*.png"))
    assert pictures
    for path in pictures:
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("RGB")).std() > 20, path  # it shows something


def test_the_night_is_darker_than_the_day(here: Path) -> None:
    runpy.run_path(str(SCRIPTS[0].with_name("image_to_image.py")), run_name="__main__")
    day, night = (np.asarray(Image.open(here / f"{name}.png").convert("L"), float).mean() for name in ("day", "night"))
    assert night < day - 40
