"""Jobs and results outlive the engine, however it ends."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mold_core import (
    CancelledError,
    DenoiseStep,
    Engine,
    GenerateRequest,
    OutputError,
    UnknownModelError,
    ValidationError,
)
from mold_core.errors import JobNotFoundError, WorkerError
from mold_core.gallery import Gallery
from mold_core.jobs.store import JobStore
from mold_core.testing import FakePlugin, SketchFamily, engine_with, sketch_model

WAIT_S = 120.0

PROGRAM = """
import os, sys, threading
from pathlib import Path
from mold_core import GenerateRequest
from mold_core.jobs.repository import JobRepository
from mold_core.gallery import Gallery
from mold_core.testing import FakePlugin, SketchFamily, engine_with, sketch_model

home = Path(sys.argv[1])
family = SketchFamily(step_s=float(sys.argv[2]))
if sys.argv[3] == "dies before it writes":
    JobRepository._write_down = lambda *arguments: os._exit(9)
gallery = Gallery(home / "output", home / "gallery.db")
plugin = FakePlugin(families=[family], models=[sketch_model()])
with engine_with(plugin, home=home, durable=True, gallery=gallery) as engine:
    if sys.argv[4] == "asks":
        print(engine.submit(GenerateRequest(prompt="a house", model="sketch", steps=3)).id, flush=True)
    for job in engine.jobs():
        while not (job.finished or engine.loaded()):
            job.wait(0.01)
    print("begun", flush=True)
    threading.Event().wait()
"""


def request(prompt: str = "a red house", **fields: Any) -> GenerateRequest:
    return GenerateRequest(prompt=prompt, **{"model": "sketch", "seed": 7, **fields})


@contextmanager
def durable_engine(home: Path, family: SketchFamily | None = None, **options: Any) -> Iterator[Engine]:
    plugin = FakePlugin(families=[family or SketchFamily()], models=[sketch_model()])
    with engine_with(plugin, home=home, durable=True, **options) as engine:
        yield engine


def killed(home: Path, *, step_s: float, dies: bool = False, asks: bool = True) -> str:
    """Run an engine in another process until its job has begun, kill it, and return the job's id."""
    words = ["dies before it writes" if dies else "lives", "asks" if asks else "waits"]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(home), str(step_s), *words], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        id_ = process.stdout.readline().strip() if asks else ""
        if dies:
            assert process.wait(WAIT_S) == 9
        else:
            assert process.stdout.readline() == "begun\n"
            process.send_signal(signal.SIGKILL)
    return id_


def write(home: Path, sql: str) -> None:
    with closing(sqlite3.connect(home / "jobs" / "jobs.db")) as table, table:
        table.execute(sql)


def rows(home: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(home / "jobs" / "jobs.db")) as table:
        return table.execute(sql).fetchall()


def test_a_job_is_on_the_disk_before_its_asker_hears_of_it(home: Path) -> None:
    with durable_engine(home) as engine:
        engine.pause()
        job = engine.submit(request())
        table = sqlite3.connect(home / "jobs" / "jobs.db")
        assert table.execute("SELECT id, kind, state, model FROM jobs").fetchall() == [
            (job.id, "generate", "queued", "sketch:v1")
        ]
        table.close()


def test_a_job_that_nobody_would_want_after_a_crash_is_not_written(home: Path) -> None:
    with durable_engine(home) as engine:
        job = engine.submit(request(), durable=False)
        assert job.result(WAIT_S).images
    with durable_engine(home) as engine, pytest.raises(JobNotFoundError):
        engine.job(job.id)


def test_what_waited_and_what_ran_goes_on_in_the_next_engine(home: Path) -> None:
    with durable_engine(home, SketchFamily(step_s=0.05)) as engine:
        ran = engine.submit(request(seed=None, steps=90))
        next(event for event in ran.events() if isinstance(event, DenoiseStep))
        waited = engine.submit(request("a tree", seed=None))
        engine.close()
        with pytest.raises(CancelledError, match="the engine was closed; the job goes on when it starts again"):
            ran.result(WAIT_S)
    with durable_engine(home) as engine:
        again = [engine.job(job.id) for job in (ran, waited)]
        made = [job.result(WAIT_S) for job in again]
        assert [job.request for job in again] == [ran.request, waited.request]
        assert [job.attempts for job in again] == [1, 1]
        assert made[0].images == engine.generate(ran.request).images


def test_a_result_is_the_same_when_it_is_asked_for_later(home: Path) -> None:
    with durable_engine(home) as engine:
        job = engine.submit(request(width=33))
        made = job.result(WAIT_S)
    with durable_engine(home) as engine:
        again = engine.job(job.id)
        assert again.result() == made
        assert again.to_json() == {**job.to_json(), "finished_at": again.to_json()["finished_at"]}
        assert list(again.events()) == []
        assert [job.id for job in engine.jobs(state="done")] == [job.id]


def test_a_result_that_is_being_saved_when_the_engine_closes_is_saved(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving, go_on, write = threading.Event(), threading.Event(), JobStore.write_result

    def slowly(*arguments: Any) -> None:
        saving.set()
        go_on.wait(WAIT_S)
        write(*arguments)

    monkeypatch.setattr(JobStore, "write_result", slowly)
    with durable_engine(home) as engine:
        job = engine.submit(request())
        assert saving.wait(WAIT_S)
        assert not job.cancel()
        threading.Timer(0.1, go_on.set).start()
        engine.close()
        assert job.state == "done"
    with durable_engine(home) as engine:
        assert engine.job(job.id).result() == job.result()


def test_failures_and_cancelled_jobs_stay_what_they_are(home: Path) -> None:
    with durable_engine(home, SketchFamily(error=RuntimeError("boom"), error_for="cursed")) as engine:
        failed = engine.submit(request("cursed"))
        failed.wait(WAIT_S)
        engine.pause()
        cancelled = engine.submit(request())
        cancelled.cancel()
    with durable_engine(home) as engine:
        assert [engine.job(job.id).state for job in (failed, cancelled)] == ["failed", "cancelled"]
        with pytest.raises(type(failed.error), match="failed while generating: RuntimeError"):
            engine.job(failed.id).result()
        assert engine.job(cancelled.id).error.code == "CANCELLED"  # type: ignore[union-attr]


def test_a_job_that_ran_when_the_engine_was_killed_is_run_again(home: Path) -> None:
    id_ = killed(home, step_s=5)
    with durable_engine(home) as engine:
        job = engine.job(id_)
        assert job.result(WAIT_S).images
        assert (job.attempts, job.interruptions) == (1, 1)


def test_a_job_that_ran_at_two_ends_of_the_engine_is_not_blamed_for_them(home: Path) -> None:
    id_ = killed(home, step_s=5)
    killed(home, step_s=5, asks=False)
    with durable_engine(home) as engine:
        job = engine.job(id_)
        assert job.result(WAIT_S).images
        assert (job.attempts, job.interruptions) == (1, 2)


def test_a_job_that_ran_each_time_the_engine_was_killed_is_given_up(home: Path) -> None:
    id_ = killed(home, step_s=5)
    write(home, "UPDATE jobs SET interruptions = 9")
    with durable_engine(home) as engine:
        job = engine.job(id_)
        assert job.state == "failed"
        with pytest.raises(WorkerError, match="the server ended while the job ran, 10 times"):
            job.result()


def test_a_job_that_ran_when_the_engine_was_killed_often_lets_others_go_first(home: Path) -> None:
    id_ = killed(home, step_s=5)
    write(home, "UPDATE jobs SET interruptions = 7")
    with durable_engine(home) as engine:
        assert engine.generate(request("a tree")).images
        assert engine.job(id_).state == "queued"
        # What a kill would leave now is what the table holds: a job that waits has not been interrupted again.
        assert rows(home, f"SELECT state, interruptions FROM jobs WHERE id = '{id_}'") == [("queued", 8)]


def test_a_table_of_an_older_version_is_used_as_it_is(home: Path) -> None:
    with durable_engine(home) as engine:
        job = engine.submit(request())
        job.result(WAIT_S)
    write(home, "ALTER TABLE jobs DROP COLUMN interruptions")
    with durable_engine(home) as engine:
        assert engine.job(job.id).result() == job.result()
        assert engine.generate(request("a tree")).images


def test_a_image_saved_just_before_a_crash_is_not_saved_twice(home: Path) -> None:
    id_ = killed(home, step_s=0, dies=True)
    gallery = Gallery(home / "output", home / "gallery.db")
    (first,) = gallery.list().entries
    with durable_engine(home, gallery=gallery) as engine:
        job = engine.job(id_)
        job.result(WAIT_S)
        (entry,) = gallery.list().entries
        assert entry == first
        assert job.files == engine.job(id_).files == (entry.filename,)
        assert entry.metadata.prompt == "a house"
        assert [path.name for path in (home / "output").iterdir()] == [entry.filename]
    gallery.close()


def test_all_images_of_a_job_go_to_the_gallery_before_it_is_done(home: Path) -> None:
    gallery = Gallery(home / "output", home / "gallery.db")
    with durable_engine(home, gallery=gallery) as engine:
        jobs = [engine.submit(request(batch_size=3)) for _ in range(3)]
        for job in jobs:
            made = job.result(WAIT_S)
            entries = [gallery.get(name) for name in job.files]
            assert [entry.path.read_bytes() for entry in entries] == [image.data for image in made.images]
            assert tuple(image.name for image in made.images) == job.files
            assert [entry.metadata.seed for entry in entries] == [7, 8, 9]
    assert len(gallery.list().entries) == 9
    gallery.close()


def test_a_paused_queue_is_paused_in_the_next_engine(home: Path) -> None:
    with durable_engine(home) as engine:
        engine.pause()
        job = engine.submit(request())
    with durable_engine(home) as engine:
        assert engine.status().paused
        assert engine.job(job.id).state == "queued"
        engine.resume()
        engine.job(job.id).result(WAIT_S)
    with durable_engine(home) as engine:
        assert not engine.status().paused


def test_a_key_means_the_same_job_in_the_next_engine(home: Path) -> None:
    with durable_engine(home) as engine:
        job = engine.submit(request(), idempotency_key="k")
        job.result(WAIT_S)
    with durable_engine(home) as engine:
        assert engine.submit(request(), idempotency_key="k").id == job.id
        with pytest.raises(ValidationError, match="idempotency key 'k' was given before"):
            engine.submit(request("a tree"), idempotency_key="k")


def test_a_job_that_can_no_longer_run_says_why(home: Path) -> None:
    with durable_engine(home) as engine:
        engine.pause()
        job = engine.submit(request())
    with engine_with(home=home, durable=True) as engine:
        assert engine.job(job.id).state == "failed"
        with pytest.raises(UnknownModelError):
            engine.job(job.id).result()


def test_old_jobs_and_their_results_are_forgotten(home: Path) -> None:
    with durable_engine(home) as engine:
        job = engine.submit(request())
        job.result(WAIT_S)
        assert (home / "jobs" / f"{job.id}.json").exists()
    with durable_engine(home, job_retention_h=0.0) as engine:
        with pytest.raises(JobNotFoundError):
            engine.job(job.id)
        assert list((home / "jobs").glob("*.json")) == []


def test_two_engines_do_not_keep_their_jobs_in_one_place(home: Path) -> None:
    with (
        durable_engine(home),
        pytest.raises(OutputError, match="another mold server uses this folder"),
        durable_engine(home),
    ):
        pass


def test_a_full_queue_leaves_nothing_on_the_disk(home: Path) -> None:
    with durable_engine(home, queue_size=1) as engine:
        engine.pause()
        job = engine.submit(request())
        with pytest.raises(Exception, match=r"queue is full \(1/1\)"):
            engine.submit(request())
        assert engine.jobs() == [job]
