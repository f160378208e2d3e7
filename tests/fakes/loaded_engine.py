"""A durable engine under load, to be killed: `python loaded_engine.py HOME` tells, line by line, what it promised."""

from __future__ import annotations

import sys
import threading
from itertools import count
from pathlib import Path

from mold_core import GenerateRequest, Job, QueueFullError
from mold_core.gallery import Gallery
from mold_core.testing import FakePlugin, SketchFamily, engine_with, sketch_model

WAITING = 12


def main(home: Path) -> None:
    """Submit requests without end."""
    telling = threading.Lock()

    def tell(*words: str) -> None:
        with telling:
            print(*words, flush=True)

    def on_finished(job: Job) -> None:
        tell(job.state, job.id)

    plugin = FakePlugin(
        families=[SketchFamily(step_s=0.004)],
        models=[sketch_model(), sketch_model("other:v1")],
        on_finished=on_finished,
    )
    gallery = Gallery(home / "output", home / "gallery.db")
    with engine_with(plugin, home=home, durable=True, gallery=gallery, queue_size=WAITING) as engine:
        tell("ready")
        for number in count():
            model, steps = ("sketch", 2 + number % 3) if number % 5 else ("other", 2)
            request = GenerateRequest(prompt="a house", model=model, steps=steps, batch_size=1 + number % 2)
            try:
                job = engine.submit(request)
            except QueueFullError:
                threading.Event().wait(0.01)
                continue
            tell("accepted", job.id)
            if number % 7 == 0:
                job.cancel()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
