"""Jobs are found again, paused, moved and counted; models are loaded and unloaded on demand."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic, sleep
from typing import Any

import pytest

from mold_core import Engine, GenerateRequest, UnknownModelError, ValidationError
from mold_core.engine import MetricSample
from mold_core.errors import JobNotFoundError
from mold_core.testing import FakePlugin, Gate, SketchFamily, engine_with, sketch_model
from mold_core.wire import PullRequest, PullResponse

WAIT_S = 120.0


def request(prompt: str = "a red house", **fields: Any) -> GenerateRequest:
    return GenerateRequest(prompt=prompt, **{"model": "sketch", "seed": 7, **fields})


@pytest.fixture
def family() -> SketchFamily:
    return SketchFamily()


@pytest.fixture
def engine(family: SketchFamily) -> Iterator[Engine]:
    with engine_with(FakePlugin(families=[family], models=[sketch_model(), sketch_model("other:v1")])) as engine:
        yield engine


def test_a_request_that_no_kind_knows_is_refused_in_words(engine: Engine) -> None:
    with pytest.raises(ValidationError, match=r"cannot run a request of class dict; it can run GenerateRequest"):
        engine.submit({"prompt": "a"})


def test_a_job_is_found_by_its_id_while_it_runs_and_afterwards(engine: Engine, family: SketchFamily) -> None:
    family.gate = Gate()
    job = engine.submit(request())
    family.gate.wait_for_arrival()
    assert engine.job(job.id) is job
    assert engine.jobs(state="running", kind="generate") == [job]
    family.gate.open()
    job.result(WAIT_S)
    assert engine.job(job.id) is job
    assert (engine.jobs(state="running"), engine.jobs(kind="pull"), engine.jobs()) == ([], [], [job])


def test_a_job_that_never_was_is_not_found(engine: Engine) -> None:
    with pytest.raises(JobNotFoundError, match="there is no job 'x'"):
        engine.job("x")


def test_a_job_tells_what_there_is_to_say_of_it(engine: Engine) -> None:
    engine.pause()
    job = engine.submit(request(width=33))
    summary = job.to_json()
    assert summary.pop("created_at") == int(job.created_at * 1000)
    assert summary == {
        "id": job.id,
        "kind": "generate",
        "state": "queued",
        "position": 1,
        "model": "sketch:v1",
        "warnings": ["dimensions adjusted from 33x32 to 32x32"],
    }
    engine.resume()
    job.result(WAIT_S)
    assert {"started_at", "finished_at"} < job.to_json().keys()
    engine.pause()
    job = engine.submit(request())
    job.cancel()
    assert (job.to_json()["state"], job.to_json()["code"]) == ("cancelled", "CANCELLED")


def test_a_paused_engine_begins_nothing_until_it_is_resumed(engine: Engine, family: SketchFamily) -> None:
    engine.pause()
    job = engine.submit(request())
    assert engine.status().paused
    assert (job.wait(0.05), family.batches) == (False, [])
    engine.resume()
    assert job.result(WAIT_S).images


def test_a_job_that_is_moved_runs_earlier(engine: Engine, family: SketchFamily) -> None:
    engine.pause()
    jobs = [engine.submit(request(prompt, width=8 * number)) for number, prompt in enumerate("abc", 1)]
    assert engine.move(jobs[2].id, 1) == 1
    assert [job.position for job in jobs] == [2, 3, 1]
    engine.resume()
    for job in jobs:
        job.result(WAIT_S)
    assert [batch[0].prompt for batch in family.batches] == ["c", "a", "b"]


def test_the_same_key_gives_the_same_job(engine: Engine) -> None:
    first = engine.submit(request(seed=None), idempotency_key="k")
    assert engine.submit(request(seed=None), idempotency_key="k") is first
    assert engine.submit(request(seed=None), idempotency_key="l") is not first
    with pytest.raises(ValidationError, match="idempotency key 'k' was given before, with another request"):
        engine.submit(request("a tree"), idempotency_key="k")


def test_models_are_loaded_and_unloaded_on_demand(engine: Engine, family: SketchFamily) -> None:
    assert engine.unload() == ()
    assert engine.load("sketch") == "cpu"
    assert engine.load("other", "cpu") == "cpu"
    assert engine.loaded() == {"sketch:v1", "other:v1"}
    assert engine.unload("sketch") == (("cpu", "sketch:v1"),)
    assert engine.unload() == (("cpu", "other:v1"),)
    assert engine.loaded() == frozenset()
    with pytest.raises(UnknownModelError):
        engine.load("nothing")
    with pytest.raises(ValidationError, match="there is no device 'cuda:7' here; there is cpu"):
        engine.unload(device="cuda:7")


def test_a_model_that_cannot_be_loaded_says_so_to_who_asked(engine: Engine, family: SketchFamily) -> None:
    family.load_error = OSError("disk on fire")
    with pytest.raises(Exception, match="disk on fire"):
        engine.load("sketch")
    family.load_error = None
    assert engine.generate(request()).images


def test_models_are_unloaded_when_nothing_was_asked_for_long(family: SketchFamily) -> None:
    with engine_with(FakePlugin(families=[family], models=[sketch_model()]), idle_unload_s=0.1) as engine:
        engine.generate(request())
        deadline = monotonic() + WAIT_S
        while not family.closes and monotonic() < deadline:
            sleep(0.01)
        assert family.closes == ["sketch:v1"]
        assert engine.generate(request()).images


def test_status_tells_what_runs_and_what_waits(engine: Engine, family: SketchFamily) -> None:
    assert engine.status().devices == ()
    family.gate = Gate()
    running = engine.submit(request())
    family.gate.wait_for_arrival()
    engine.submit(request())
    status = engine.status()
    (device,) = status.devices
    assert (status.queue_depth, status.running, status.paused) == (1, (running,), False)
    assert (device.device, device.state, device.models, device.jobs) == (
        "cpu",
        "generating",
        ("sketch:v1",),
        (running.id,),
    )
    assert 0 < device.memory_used_bytes < device.memory_total_bytes
    assert device.name
    family.gate.open()


def test_observers_are_told_figures(engine: Engine, family: SketchFamily) -> None:
    measures: list[MetricSample] = []
    engine.observers.add(lambda measure: 1 / 0)
    engine.observers.add(measures.append)
    family.error, family.error_for = RuntimeError("boom"), "cursed"
    engine.generate(request())
    with pytest.raises(Exception, match="boom"):
        engine.generate(request("cursed"))
    engine.close()
    ended = [measure.labels for measure in measures if measure.name == "job_finished"]
    common = {"kind": "generate", "model": "sketch:v1"}
    assert ended == [
        {**common, "state": "done", "code": ""},
        {**common, "state": "failed", "code": "INFERENCE_ERROR"},
    ]
    names = {measure.name for measure in measures}
    assert names == {"queue_wait_s", "batch_jobs", "batch_images", "stage_s", "model_load_s", "job_s", "job_finished"}


def test_a_pull_is_a_job_beside_the_queue(engine: Engine) -> None:
    engine.pause()
    job = engine.submit(PullRequest(model="sketch"))
    assert job.result(WAIT_S) == PullResponse(model="sketch:v1", size_bytes=0)
    assert job.kind == "pull"
    assert engine.jobs(kind="pull") == [job]
