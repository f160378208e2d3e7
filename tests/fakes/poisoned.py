"""A family whose images can leave a process with a device that fails from then on, as CUDA does after a bad access."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from mold_core import Frames, GenerateRequest, Run
from mold_core.testing import SketchFamily

__all__ = ["FAULT", "PoisonedFamily"]

FAULT = "CUDA error: an illegal memory access was encountered"


def _fail(*arguments: Any) -> Any:
    raise RuntimeError(FAULT)


@attrs.define(kw_only=True, eq=False)
class PoisonedFamily(SketchFamily):
    """Draws like a sketch; after a prompt with the word `poison` the device of its process answers no more."""

    def load(self, *arguments: Any) -> Any:
        """Return a pipeline that obeys the word."""
        return _Pipeline(super().load(*arguments))


@attrs.define
class _Pipeline:
    sketch: Any

    @property
    def size_bytes(self) -> int:
        return int(self.sketch.size_bytes)

    def generate(self, requests: Sequence[GenerateRequest], run: Run) -> list[Frames]:
        if any("poison" in request.prompt for request in requests):
            from mold_core.engine.worker import local as worker

            worker.device_info = _fail
            _fail()
        made: list[Frames] = self.sketch.generate(requests, run)
        return made

    def close(self) -> None:
        self.sketch.close()
