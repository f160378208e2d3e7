"""Thousands of jobs, cancelled, abandoned and with their workers killed: none is lost and nothing is left behind."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import attrs
import pytest

from mold_core import CancelledError, Engine, GenerateRequest, GenerateResponse, Job
from mold_core.engine.worker.process import ProcessWorker
from mold_core.errors import WorkerError
from mold_core.testing import FakePlugin, SketchFamily, engine_with, sketch_model

WAIT_S = 120.0
CLIENTS = 8
WARM_UP = 40
SPARE_BYTES = 50_000_000


@attrs.frozen(kw_only=True)
class Load:
    """What is done to an engine, in a random order."""

    generations: int
    cancels: int
    dropped_readers: int
    kills: int

    def actions(self, chance: random.Random) -> list[str]:
        """Return the names of all that clients do."""
        actions = ["generate"] * self.generations + ["cancel"] * self.cancels + ["drop"] * self.dropped_readers
        chance.shuffle(actions)
        return actions


@attrs.frozen(kw_only=True)
class Footprint:
    """What a process holds: threads, open files, child processes, bytes of memory."""

    threads: frozenset[str]
    files: int
    children: int
    memory_bytes: int

    @classmethod
    def now(cls) -> Footprint:
        """Measure this process."""
        gc.collect()
        task = Path("/proc/self/task")
        children = [child for thread in task.iterdir() for child in (thread / "children").read_text().split()]
        resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            threads=frozenset(thread.name for thread in threading.enumerate()),
            files=len(os.listdir("/proc/self/fd")),
            children=len(children),
            memory_bytes=resident_pages * os.sysconf("SC_PAGE_SIZE"),
        )


class Clients:
    """Threads that use an engine until all actions are done, and remember the jobs."""

    def __init__(self, engine: Engine, load: Load, seed: int) -> None:
        self._engine = engine
        self._chance = random.Random(seed)
        self._actions = load.actions(self._chance)
        self._kill_at = {round(len(self._actions) * (n + 1) / (load.kills + 1)) for n in range(load.kills)}
        self._lock = threading.Lock()
        self.jobs: list[Job] = []
        self.kills = 0
        self.problems: list[BaseException] = []

    def run(self) -> None:
        """Do everything."""
        threads = [threading.Thread(target=self._work, name=f"client-{number}") for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self) -> None:
        try:
            while (action := self._next()) is not None:
                getattr(self, f"_{action}")()
        except BaseException as problem:
            self.problems.append(problem)

    def _next(self) -> str | None:
        with self._lock:
            if len(self._actions) in self._kill_at:
                self._kill_at.remove(len(self._actions))
                self._kill()
            return self._actions.pop() if self._actions else None

    def _submit(self, **fields: Any) -> Job:
        with self._lock:
            seed, width = self._chance.randrange(2**32), self._chance.choice((32, 64))
        job = self._engine.submit(GenerateRequest(prompt="a", model="sketch", seed=seed, width=width, **fields))
        self.jobs.append(job)
        return job

    def _generate(self) -> None:
        with suppress(WorkerError):
            result: GenerateResponse = self._submit().result(WAIT_S)
            assert len(result.images) == 1

    def _cancel(self) -> None:
        job = self._submit(steps=50)
        sleep(self._chance.choice((0, 0, 0.01, 0.1)))
        job.cancel()
        assert job.wait(WAIT_S)

    def _drop(self) -> None:
        job = self._submit(steps=20)
        stop = job.watch(lambda: None)
        for _event in islice(job.events(timeout_s=WAIT_S), self._chance.randrange(4)):
            pass
        stop()

    def _kill(self) -> None:
        workers = [runner._worker for runner in self._engine._runners]
        pids = [worker.pid for worker in workers if isinstance(worker, ProcessWorker) and worker.alive]
        if pids:
            os.kill(self._chance.choice(pids), signal.SIGKILL)
            self.kills += 1
        else:
            self._kill_at.add(len(self._actions) - 1)


def until(condition: Callable[[], object]) -> None:
    deadline = monotonic() + WAIT_S
    while not condition():
        assert monotonic() < deadline
        sleep(0.02)


def ready(engine: Engine) -> bool:
    """Say whether both workers run and have nothing to do."""
    alive = [isinstance(runner._worker, ProcessWorker) and runner._worker.alive for runner in engine._runners]
    return alive == [True, True] and engine.queue.wait_for_idle(2, 0.0)


def soak(home: Path, load: Load) -> None:
    """Use an engine hard and check what is left of it."""
    plugin = FakePlugin(families=[SketchFamily(step_s=0.002)], models=[sketch_model()])
    others = Footprint.now().children  # servers that other tests have running
    with engine_with(
        plugin, home=home, durable=True, executor="process", cpu_workers=2, queue_size=CLIENTS * 100
    ) as engine:
        engine.start()
        until(lambda: ready(engine))
        warm_up = Clients(engine, Load(generations=WARM_UP, cancels=4, dropped_readers=4, kills=0), seed=1)
        warm_up.run()
        until(lambda: all(job.finished for job in warm_up.jobs) and ready(engine))
        before = Footprint.now()
        clients = Clients(engine, load, seed=2)
        clients.run()
        assert clients.problems == []
        until(lambda: all(job.finished for job in clients.jobs) and ready(engine))
        after = Footprint.now()
        check_jobs(engine, clients, load)
        assert after.threads == before.threads
        assert after.children == before.children == others + 2
        assert after.files <= before.files
        print(f"{(after.memory_bytes - before.memory_bytes) / 1e6:+.1f} MB after {len(clients.jobs)} jobs")
        assert after.memory_bytes < before.memory_bytes + SPARE_BYTES
    left = Footprint.now()
    assert left.children == others
    # The decoder of media and the threads for large bodies belong to the process: other tests may have started them.
    of_process = ("mold-decoder", "mold-bodies")
    assert not {name for name in left.threads if name.startswith("mold") and not name.startswith(of_process)}


def check_jobs(engine: Engine, clients: Clients, load: Load) -> None:
    """Every job has ended in one way, and it is written down so."""
    jobs = clients.jobs
    assert len(jobs) == load.generations + load.cancels + load.dropped_readers
    assert clients.kills == load.kills
    assert not any(job._watchers for job in jobs)
    store = engine._repository._store
    assert store is not None
    store.flush()
    rows = {row.id: row for row in store.all()}
    for job in jobs:
        assert rows[job.id].state == job.state
        if job.state == "failed":
            assert isinstance(job.error, WorkerError)
            assert job.attempts == 2
        elif job.state == "cancelled":
            assert isinstance(job.error, CancelledError)
        else:
            assert store.result(job.id) is not None
    states = [job.state for job in jobs]
    assert states.count("done") >= load.generations - states.count("failed")
    assert states.count("failed") <= load.kills
    assert engine.status().queue_depth == 0
    assert not engine.busy


def test_nothing_is_lost_or_left_behind(home: Path) -> None:
    soak(home, Load(generations=60, cancels=15, dropped_readers=10, kills=1))


@pytest.mark.soak
def test_nothing_is_lost_or_left_behind_in_a_long_run(home: Path) -> None:
    soak(home, Load(generations=2000, cancels=500, dropped_readers=200, kills=20))
