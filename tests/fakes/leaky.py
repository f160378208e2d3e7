"""A plugin that says more than it should: its exceptions name files, and it prints whenever it can."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from mold_core import Frames, GenerateRequest, ModelSpec, Run, hookimpl
from mold_core.testing import SketchFamily, sketch_model

SECRET = "/srv/secret/weights"

print("imported, from Python")
os.write(1, b"imported, from C\n")


class Kaboom(Exception):
    """An exception whose name does not say that it is one."""


FAILURES = {
    kind.__name__: kind
    for kind in (Kaboom, KeyError, StopIteration, UserWarning, SystemExit, OSError, RuntimeError, MemoryError)
}


@attrs.define(kw_only=True, eq=False)
class LeakyFamily(SketchFamily):
    """Draws like a sketch, and raises what the prompt names."""

    def load(self, *arguments: Any) -> Any:
        """Return a pipeline that prints and raises."""
        return LeakyPipeline(super().load(*arguments))


@attrs.define
class LeakyPipeline:
    """Prints before it draws, and raises the exception that the prompt is called like."""

    sketch: Any

    @property
    def size_bytes(self) -> int:
        """Bytes of the sketch."""
        return int(self.sketch.size_bytes)

    def generate(self, requests: Sequence[GenerateRequest], run: Run) -> list[Frames]:
        """Return images, or raise."""
        print("generating, from Python")
        os.write(1, b"generating, from C\n")
        os.system("echo generating, from a child")
        for request in requests:
            if request.prompt in FAILURES:
                raise FAILURES[request.prompt](SECRET)
        made: list[Frames] = self.sketch.generate(requests, run)
        return made

    def close(self) -> None:
        """Close the sketch."""
        print("closing, from Python")
        self.sketch.close()


@hookimpl
def mold_families() -> list[Any]:
    """Return the family."""
    return [LeakyFamily()]


@hookimpl
def mold_models() -> list[ModelSpec]:
    """Return one model that is always here."""
    return [attrs.evolve(sketch_model("leaky:v1"), root=Path(__file__).parent)]


def install(folder: Path) -> Path:
    """Write what pip would write to make this a plugin into `folder`, and return the folder."""
    about = folder / "mold_leaky-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mold-leaky\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[mold]\nleaky = leaky\n")
    (folder / "leaky.py").symlink_to(Path(__file__))
    return folder
