"""Models whose files lie outside of the models folder: verified, pulled and removed without an error or a loss."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a model `mine:v1`, of whose components two lie in one file elsewhere and one beside the models."""
    home, elsewhere = tmp_path / "home", tmp_path / "comfy"
    (home / "models").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "all.safetensors").write_bytes(b"x" * 1000)
    (home / "vae.safetensors").write_bytes(b"y" * 500)
    files = f'{{ transformer = "{elsewhere}/all.safetensors", clip = "{elsewhere}/all.safetensors", '
    files += 'vae = "../vae.safetensors" }'
    (home / "config.toml").write_text(f'[models."mine:v1"]\nfamily = "paint"\nfiles = {files}\n')
    monkeypatch.setenv("MOLD_HOME", str(home))
    return home


def mold(*arguments: str, status: int = 0) -> str:
    command = [str(Path(sys.executable).with_name("mold")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == status or (status and done.returncode), done.stderr
    return done.stdout + done.stderr


def test_its_files_are_verified(home: Path) -> None:
    verdicts = json.loads(mold("info", "mine:v1", "--verify", "--json"))
    assert [(one["component"], one["size_bytes"], one["right"]) for one in verdicts] == [
        ("transformer", 1000, True),
        ("clip", 1000, True),
        ("vae", 500, True),
    ]


def test_a_file_of_several_components_is_counted_once(home: Path) -> None:
    shown = json.loads(mold("list", "--json"))
    (mine,) = (one for one in shown if one["name"] == "mine:v1")
    assert mine["downloaded"]
    assert "1.5 kB" in mold("info", "mine:v1")


def test_there_is_nothing_to_pull(home: Path) -> None:
    mold("pull", "mine:v1")
    assert not list((home / "models").rglob("*.safetensors"))


def test_a_missing_file_is_named_by_a_pull(home: Path) -> None:
    (home / "vae.safetensors").unlink()
    assert "vae.safetensors" in mold("pull", "mine:v1", status=1)


def test_its_files_stay_when_it_is_removed(home: Path, tmp_path: Path) -> None:
    said = mold("rm", "mine:v1", "--yes")
    assert "outside of the models folder" in said
    assert (tmp_path / "comfy/all.safetensors").read_bytes() == b"x" * 1000
    assert (home / "vae.safetensors").exists()
