"""Clients written against mold 0.1 still work with this server and library. Their scripts in data/ never change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from inside_server import serving_inside

from mold_core.testing import EchoExpander, FakePlugin, SketchFamily, sketch_model

SCRIPTS = sorted((Path(__file__).parent / "data").glob("client_*.py"))
RENAMED = "Client.shelf is called disk since mold 0.2"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_client_of_mold_0_1_still_works(script: Path, tmp_path: Path) -> None:
    plugin = FakePlugin(families=[SketchFamily()], models=[sketch_model()], expanders=[EchoExpander()])
    with serving_inside(
        tmp_path / "home", plugin, queue_size=3, expand_backend="echo", default_model="sketch", api_key="a-key"
    ) as server:
        done = subprocess.run(
            [sys.executable, str(script), f"http://127.0.0.1:{server.port}", "a-key"],
            env={**os.environ, "MOLD_HOME": str(tmp_path / "client"), "PYTHONWARNINGS": f"error,ignore:{RENAMED}"},
            capture_output=True,
            text=True,
        )
    assert (done.returncode, done.stdout) == (0, "everything as in 0.1\n"), done.stderr
