"""An engine that is killed at random moments under load: each time, every job is in one true state."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import threading
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import pytest

from mold_core import GenerateResponse
from mold_core.gallery import Gallery
from mold_core.jobs.store import JobRow, JobStore
from mold_core.media.images import decode_image
from mold_core.testing import FakePlugin, SketchFamily, engine_with, sketch_model
from mold_core.wire.convert import from_text

PROGRAM = Path(__file__).parent.parent / "fakes" / "loaded_engine.py"
WAIT_S = 120.0
FINAL = ("done", "failed", "cancelled")


class Promises:
    """What engines said before they were killed: the words that were told of each job."""

    def __init__(self) -> None:
        self.told: dict[str, set[str]] = defaultdict(set)

    def hear(self, home: Path, until_s: float) -> None:
        """Run an engine, kill it `until_s` seconds after it is ready, and remember what it said."""
        with subprocess.Popen([sys.executable, PROGRAM, home], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            timer = threading.Timer(until_s, process.kill)
            for line in process.stdout:
                if line == "ready\n":  # jobs from before may have ended by then
                    timer.start()
                elif line.endswith("\n"):
                    word, id_ = line.split()
                    self.told[id_].add(word)
            timer.join()


def check(home: Path, promises: Promises) -> list[JobRow]:
    """Compare the disk with what was promised, and return the jobs."""
    for path in (home / "jobs" / "jobs.db", home / "gallery.db"):
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",), path
    store = JobStore(home / "jobs", retention_s=1e9)
    gallery = Gallery(home / "output", home / "gallery.db")
    try:
        rows = {row.id: row for row in store.all()}
        for id_, words in promises.told.items():
            assert id_ in rows, f"{id_} was {words} and is gone"
            if "done" in words:
                assert rows[id_].state == "done"
        entries = {entry.filename: entry for entry in gallery.list().entries}
        for entry in entries.values():
            assert decode_image(entry.path.read_bytes()).size == (32, 32)
        for row in rows.values():
            assert row.state in ("queued", "running", *FINAL)
            if row.state == "done":
                result = store.result(row.id)
                assert result is not None
                response = from_text(GenerateResponse, result)
                assert [entries[name].path.read_bytes() for name in row.files] == [i.data for i in response.images]
        shelved = [name for row in rows.values() for name in row.files]
        assert len(shelved) == len(set(shelved))
    finally:
        store.close()
        gallery.close()
    return list(rows.values())


def soak(home: Path, kills: int) -> None:
    """Kill an engine so often, then let one finish what they left."""
    chance, promises = random.Random(3), Promises()
    for _ in range(kills):
        promises.hear(home, chance.uniform(0, 1.2))
        check(home, promises)
    gallery = Gallery(home / "output", home / "gallery.db")
    plugin = FakePlugin(families=[SketchFamily()], models=[sketch_model(), sketch_model("other:v1")])
    with engine_with(plugin, home=home, durable=True, gallery=gallery) as engine:
        for job in engine.jobs():
            assert job.wait(WAIT_S)
    gallery.close()
    rows = check(home, promises)
    assert promises.told
    assert all(row.state in FINAL for row in rows)
    assert all("while the job ran" in row.error["error"] for row in rows if row.state == "failed" and row.error)
    done = sum(len(row.files) for row in rows if row.state == "done")
    undecided = sum(2 for row in rows if row.state != "done")
    assert done <= len(list((home / "output").iterdir())) <= done + undecided
    print({state: sum(row.state == state for row in rows) for state in FINAL}, done, "images")


def test_an_engine_that_is_killed_leaves_every_job_in_one_true_state(home: Path) -> None:
    soak(home, kills=3)


@pytest.mark.soak
def test_an_engine_that_is_killed_fifty_times_leaves_every_job_in_one_true_state(home: Path) -> None:
    soak(home, kills=50)
