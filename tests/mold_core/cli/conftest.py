"""The real executable with one small plugin, which needs no torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mold_core.cli.main import _run as run_command_line

PLUGIN = '''
"""Sketches that can be slow, say their steps, and bring commands."""
import os
import sys
from pathlib import Path

import attrs
import click

from mold_core import hookimpl
from mold_core.testing import FlipbookFamily, FlipbookRenderer, SketchFamily, flipbook_model, sketch_model

if "SKETCH_GREETS" in os.environ:
    print("imported", file=sys.stderr)


class Saying:
    def pass_through(self):
        print("step", file=sys.stderr, flush=True)


class Computing(Saying):
    """Computes for minutes in C++, in one piece or in many, and never asks whether to go on."""

    def pass_through(self):
        import torch

        matrix = torch.randn(7000, 7000)
        super().pass_through()
        while os.environ["SKETCH_COMPUTES"] == "pieces":
            torch.linalg.inv(matrix[:100, :100])
        torch.linalg.svd(matrix)


@hookimpl
def mold_families():
    if "SKETCH_COMPUTES" in os.environ:
        return [SketchFamily(gate=Computing())]
    gate = Saying() if "SKETCH_SAYS" in os.environ else None
    if "SKETCH_FILMS" in os.environ:
        return [FlipbookFamily(gate=gate)]
    return [SketchFamily(step_s=float(os.environ.get("SKETCH_STEP_S", "0")), gate=gate)]


@hookimpl
def mold_models():
    if "SKETCH_FILMS" in os.environ:
        return [flipbook_model()]
    if "SKETCH_EMBEDDED" in os.environ:
        return [attrs.evolve(sketch_model("tiny:v1"), root=Path(__file__).parent)]
    return [sketch_model("sketch:v1", files=["sketch-v1/weights"]), sketch_model("far:q8", files=["far-q8/weights"])]


@hookimpl
def mold_chain_renderers():
    return [FlipbookRenderer()]


@hookimpl
def mold_commands(cli):
    if "SKETCH_BREAKS" in os.environ:
        raise RuntimeError("no commands today")

    @cli.command()
    def scribble():
        """Scribble on standard output."""
        click.echo("~~~")
'''


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plugin `sketch`, as pip would install it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sketch_plugin.py").write_text(PLUGIN)
    about = folder / "mold_sketch-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mold-sketch\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[mold]\nsketch = sketch_plugin\n")
    return folder


@pytest.fixture
def downloaded(home: Path) -> None:
    """The model sketch:v1 is here."""
    weights = home / "models" / "sketch-v1" / "weights"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"12345")


@pytest.fixture
def sketch(mold: Callable[..., Any], site: Path, downloaded: None) -> Callable[..., subprocess.CompletedProcess[Any]]:
    """Run `mold` with the plugin `sketch` and no other."""
    return partial(mold, paths=[site], MOLD_PLUGINS="sketch")


@pytest.fixture
def sketch_process(
    mold_process: Callable[..., Any], site: Path, downloaded: None
) -> Callable[..., subprocess.Popen[Any]]:
    """Start `mold` with the plugin `sketch` and no other."""
    return partial(mold_process, paths=[site], MOLD_PLUGINS="sketch")


@pytest.fixture
def sketch_inside(
    site: Path,
    downloaded: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `mold` with the plugin `sketch` in this process, which is quicker: for what is not about processes."""
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("MOLD_PLUGINS", "sketch")
    monkeypatch.setenv("MOLD_DEVICE", "cpu")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["mold", *arguments])
        capfd.readouterr()
        status = run_command_line()
        return subprocess.CompletedProcess(arguments, status, *capfd.readouterr())

    return run
