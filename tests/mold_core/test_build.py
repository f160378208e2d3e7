"""What a copy of mold is from: asked of git in a checkout, read from the note in a wheel, else not known."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from mold_core.build import Build, build_of

ROOT = Path(__file__).parent.parent.parent


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one revision, that holds what a wheel is built from."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "mold_core", folder / "mold_core", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "mold_http", folder / "mold_http", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "a")
    return folder


def test_a_checkout_tells_its_revision_and_its_day(checkout: Path) -> None:
    build = build_of(checkout / "mold_core")
    assert build.git_sha == git(checkout, "rev-parse", "--short", "HEAD").strip()
    assert date.fromisoformat(build.build_date or "")


def test_a_wheel_carries_the_revision_and_the_day_it_was_built(checkout: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        ".",
    ]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    sha = git(checkout, "rev-parse", "--short", "HEAD").strip()
    assert build_of(tmp_path / "installed/mold_core") == Build(
        git_sha=sha, build_date=datetime.now(UTC).date().isoformat()
    )
    assert not (checkout / "mold_core/build.json").exists()


def test_elsewhere_nothing_is_known(tmp_path: Path) -> None:
    package = tmp_path / "site-packages/mold_core"
    package.mkdir(parents=True)
    assert build_of(package) == Build()
    git(tmp_path, "init", "-q")  # a folder within somebody's own checkout
    assert build_of(package) == Build()
    (package / "build.json").write_text(json.dumps({}))
    assert build_of(package) == Build()
