"""A durable engine with a worker process, to be killed: `python killed_server.py HOME` prints what it promised.

Each line is "ready", "accepted ID" or "STATE ID" of a job that has ended. After a line on standard input it accepts no
more, finishes what there is and ends.
"""

from __future__ import annotations

import sys
import threading
from itertools import count
from pathlib import Path

from mold_core import Engine, GenerateRequest, Job, QueueFullError
from mold_core.gallery import Gallery
from mold_core.testing import FakePlugin, SketchFamily, engine_with, sketch_model

WAITING = 6


class Teller:
    """Prints a line for each job that is accepted, and one for its end."""

    def __init__(self) -> None:
        self._telling = threading.Lock()
        self._ended: set[str] = set()

    def tell(self, *words: str) -> None:
        """Print a line."""
        with self._telling:
            print(*words, flush=True)

    def follow(self, job: Job) -> None:
        """Tell of the end of a job, now or later."""

        def look() -> None:
            with self._telling:
                if job.finished and job.id not in self._ended:
                    self._ended.add(job.id)
                    print(job.state, job.id, flush=True)

        job.watch(look)
        look()


def submit_until(stop: threading.Event, engine: Engine, teller: Teller) -> None:
    """Submit requests until `stop`, of one or two images each, some of which may be computed together."""
    for number in count():
        if stop.is_set():
            return
        try:
            job = engine.submit(
                GenerateRequest(prompt="a house", model="sketch", steps=2 + number % 3, batch_size=1 + number % 2)
            )
        except QueueFullError:
            stop.wait(0.02)
            continue
        teller.tell("accepted", job.id)
        teller.follow(job)


def main(home: Path) -> None:
    """Run until standard input says a line, or until killed."""
    teller, stop = Teller(), threading.Event()
    plugin = FakePlugin(families=[SketchFamily(step_s=0.02)], models=[sketch_model()])
    gallery = Gallery(home / "output", home / "gallery.db")
    with engine_with(
        plugin, home=home, durable=True, gallery=gallery, executor="process", queue_size=WAITING
    ) as engine:
        engine.start()
        for job in engine.jobs():
            if not job.finished:
                teller.follow(job)
        teller.tell("ready")
        submitting = threading.Thread(target=submit_until, args=(stop, engine, teller))
        submitting.start()
        sys.stdin.readline()
        stop.set()
        submitting.join()
        for job in engine.jobs():
            job.wait()
    gallery.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
