"""A server for each test of the client, whose pipelines stop at a gate if a test wants them to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from inside_server import InsideServer, serving_inside

from mold_core import Client
from mold_core.testing import EchoExpander, FakePlugin, SketchFamily, sketch_model


@pytest.fixture
def family() -> SketchFamily:
    """The family of the server's models."""
    return SketchFamily()


@pytest.fixture
def server(tmp_path: Path, family: SketchFamily) -> Iterator[InsideServer]:
    """A server with two models that are here, one that is not, and room for three waiting jobs."""
    models = [sketch_model("sketch:v1"), sketch_model("other:v1"), sketch_model("far:v1", files=["far.bin"])]
    plugin = FakePlugin(families=[family], models=models, expanders=[EchoExpander()])
    with serving_inside(tmp_path / "home", plugin, queue_size=3, expand_backend="echo") as running:
        yield running


@pytest.fixture
def client(server: InsideServer) -> Client:
    """A client of the server."""
    return server.client()
