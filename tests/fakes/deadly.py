"""A family whose images can take their process with them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from mold_core import Frames, GenerateRequest, Run
from mold_core.testing import SketchFamily


@attrs.define(kw_only=True, eq=False)
class DeadlyFamily(SketchFamily):
    """Draws like a sketch, but for prompts with words in them that end its process, or let it be stuck."""

    stuck_in: str = ""

    def load(self, *arguments: Any) -> Any:
        """Return a pipeline that obeys the words."""
        return DeadlyPipeline(super().load(*arguments))


@attrs.define
class DeadlyPipeline:
    """Obeys `killed`, `ended`, `says` and `stuck` in prompts; the last leaves a file and does so once."""

    sketch: Any

    @property
    def size_bytes(self) -> int:
        """Bytes of the sketch."""
        return int(self.sketch.size_bytes)

    def generate(self, requests: Sequence[GenerateRequest], run: Run) -> list[Frames]:
        """Return images, or end."""
        for request in requests:
            if "killed" in request.prompt:
                os.kill(os.getpid(), signal.SIGKILL)
            if "ended" in request.prompt:
                os._exit(3)
            if "stuck" in request.prompt and not os.path.exists(self.sketch.family.stuck_in):
                Path(self.sketch.family.stuck_in).touch()
                time.sleep(10_000)
            if "says" in request.prompt:
                print(request.prompt, file=sys.stderr)
        made: list[Frames] = self.sketch.generate(requests, run)
        return made

    def close(self) -> None:
        """Close the sketch."""
        self.sketch.close()
