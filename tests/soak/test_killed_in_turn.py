"""A server and its worker are killed in turn, again and again: every accepted job is done exactly once."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import pytest

from mold_core.files import PART_NAME
from mold_core.gallery import Gallery
from mold_core.jobs.store import JobStore
from mold_core.media.images import decode_image

PROGRAM = Path(__file__).parent.parent / "fakes" / "killed_server.py"
WAIT_S = 600.0
KILLS = int(os.environ.get("MOLD_SOAK_KILLS", "1000"))


class Promises:
    """What servers said before they were killed: how often each word was said of each job."""

    def __init__(self) -> None:
        self.told: dict[str, Counter[str]] = {}
        self.ready = False

    @contextmanager
    def server(self, home: Path) -> Iterator[subprocess.Popen[str]]:
        """Start a server, and remember what it says until it has ended."""
        self.ready = False
        with subprocess.Popen(
            [sys.executable, PROGRAM, home], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            thread = Thread(target=self._hear, args=(process,))
            thread.start()
            try:
                until(lambda: self.ready)
                yield process
            finally:
                process.kill()
                thread.join()

    def _hear(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "ready\n":
                self.ready = True
            elif line.endswith("\n"):
                word, id_ = line.split()
                self.told.setdefault(id_, Counter())[word] += 1


def until(condition: object) -> None:
    deadline = monotonic() + WAIT_S
    while not condition():  # type: ignore[operator]
        assert monotonic() < deadline
        sleep(0.01)


def children(pid: int) -> list[int]:
    """Return the worker processes of a server, whether or not they are ready."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # the thread has ended
            found += map(int, (task / "children").read_text().split())
    return found


def soak(home: Path, kills: int) -> None:
    """Kill the worker and then the server, so often in all; let one finish what they left, and look at all of it."""
    chance, promises = random.Random(14), Promises()
    for _ in range(kills // 2):
        with promises.server(home) as server:
            sleep(chance.uniform(0, 2.0))
            until(lambda pid=server.pid: children(pid))  # type: ignore[misc]
            with suppress(ProcessLookupError):
                os.kill(chance.choice(children(server.pid)), signal.SIGKILL)
            sleep(chance.uniform(0, 2.0))
    with promises.server(home) as server:
        assert server.stdin is not None
        server.stdin.write("finish\n")
        server.stdin.flush()
        assert server.wait(WAIT_S) == 0
    check(home, promises)


def check(home: Path, promises: Promises) -> None:
    """Compare what is on the disk with what was promised."""
    for path in (home / "jobs" / "jobs.db", home / "gallery.db"):
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    store = JobStore(home / "jobs", retention_s=1e9)
    gallery = Gallery(home / "output", home / "gallery.db")
    try:
        rows = {row.id: row for row in store.all()}
        accepted = {id_ for id_, words in promises.told.items() if words["accepted"]}
        failures = {row.id: row.error for row in rows.values() if row.state != "done"}
        interruptions = Counter(row.interruptions for row in rows.values())
        files = [path.name for path in (home / "output").iterdir() if not PART_NAME.fullmatch(path.name)]
        print(f"{len(accepted)} jobs, {len(failures)} not done, {len(files)} images, interruptions {interruptions}")
        assert accepted
        assert accepted <= rows.keys()
        assert not failures
        assert all(words["done"] <= 1 for words in promises.told.values())
        listed = [entry.filename for entry in gallery.list().entries]
        named = [name for row in rows.values() for name in row.files]
        assert sorted(files) == sorted(listed) == sorted(named)
        assert len(named) == len(set(named))
        assert all(decode_image((home / "output" / name).read_bytes()).size == (32, 32) for name in files)
    finally:
        store.close()
        gallery.close()


@pytest.mark.soak
def test_every_job_is_done_once_though_server_and_worker_are_killed(home: Path) -> None:
    soak(home, kills=6)


@pytest.mark.soak
def test_every_job_is_done_once_though_server_and_worker_are_killed_a_thousand_times(home: Path) -> None:
    soak(home, kills=KILLS)
