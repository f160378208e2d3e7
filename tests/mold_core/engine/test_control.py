"""Controlling an engine at work: pausing, loading, unloading, moving and closing while jobs run and wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mold_core import CancelledError, Engine, GenerateRequest, InferenceError, QueueFullError
from mold_core.testing import FakePlugin, Gate, SketchFamily, engine_with, sketch_model

WAIT_S = 120.0


def request(prompt: str = "a red house", **fields: Any) -> GenerateRequest:
    return GenerateRequest(prompt=prompt, **{"model": "sketch", "seed": 7, **fields})


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Every step waits here until a test lets it go on."""
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def family(gate: Gate) -> SketchFamily:
    """A family whose requests run one by one, up to the gate."""
    return SketchFamily(gate=gate, batched=False)


@pytest.fixture
def engine(family: SketchFamily, gate: Gate) -> Iterator[Engine]:
    """An engine with two models and room for two waiting jobs."""
    plugin = FakePlugin(families=[family], models=[sketch_model("sketch:v1"), sketch_model("other:v1")])
    with engine_with(plugin, queue_size=2) as engine:
        yield engine
        gate.open()


def test_pausing_lets_the_running_job_finish_and_holds_the_next(engine: Engine, gate: Gate) -> None:
    running = engine.submit(request("first"))
    gate.wait_for_arrival()
    waiting = engine.submit(request("second"))
    engine.pause()
    engine.pause()
    gate.open()
    assert running.result(WAIT_S).images
    assert (waiting.state, engine.status().paused) == ("queued", True)
    engine.resume()
    engine.resume()
    assert waiting.result(WAIT_S).images


def test_a_paused_queue_fills_up_and_a_cancelled_job_makes_room(engine: Engine, family: SketchFamily) -> None:
    engine.pause()
    first, second = engine.submit(request("a")), engine.submit(request("b"))
    with pytest.raises(QueueFullError):
        engine.submit(request("c"))
    assert first.cancel()
    third = engine.submit(request("c"))
    assert (first.state, second.position, third.position) == ("cancelled", 1, 2)
    assert family.batches == []


def test_a_model_is_unloaded_after_the_job_that_uses_it(engine: Engine, family: SketchFamily, gate: Gate) -> None:
    job = engine.submit(request())
    gate.wait_for_arrival()
    with ThreadPoolExecutor(1) as pool:
        unloading = pool.submit(engine.unload, "sketch")
        assert (family.closes, engine.loaded()) == ([], {"sketch:v1"})
        gate.open()
        assert unloading.result(WAIT_S) == (("cpu", "sketch:v1"),)
    assert job.result(WAIT_S).images
    assert (family.closes, engine.loaded()) == (["sketch:v1"], frozenset())
    assert engine.generate(request()).images  # it is loaded again when it is needed
    assert family.loads == ["sketch:v1", "sketch:v1"]


def test_a_model_is_loaded_though_the_queue_is_paused(engine: Engine) -> None:
    engine.pause()
    assert engine.load("other") == "cpu"
    assert engine.loaded() == {"other:v1"}


def test_loading_waits_for_the_job_under_way_and_goes_before_those_that_wait(
    engine: Engine, family: SketchFamily, gate: Gate
) -> None:
    running = engine.submit(request("first"))
    gate.wait_for_arrival()
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(engine.load, "other")
        assert family.loads == ["sketch:v1"]
        gate.open()
        assert loading.result(WAIT_S) == "cpu"
    assert running.result(WAIT_S).images
    assert family.loads == ["sketch:v1", "other:v1"]


def test_a_job_moves_to_the_end_at_most_and_only_while_it_waits(engine: Engine, gate: Gate) -> None:
    running = engine.submit(request("first"))
    gate.wait_for_arrival()
    second, third = engine.submit(request("second")), engine.submit(request("third"))
    assert engine.move(second.id, 1000) == 2
    assert (third.position, second.position) == (1, 2)
    assert engine.move(running.id, 1) == 0


def test_threads_that_submit_under_one_key_share_one_job(engine: Engine) -> None:
    engine.pause()
    barrier = threading.Barrier(8)

    def submit() -> str:
        barrier.wait(WAIT_S)
        return engine.submit(request(), idempotency_key="one").id

    with ThreadPoolExecutor(8) as pool:
        ids = {future.result(WAIT_S) for future in [pool.submit(submit) for _ in range(8)]}
    assert ids == {job.id for job in engine.jobs()}
    assert len(ids) == 1


def test_closing_a_paused_engine_cancels_what_waits_and_closing_twice_is_no_error(engine: Engine) -> None:
    engine.pause()
    job = engine.submit(request())
    engine.close()
    engine.close()
    with pytest.raises(CancelledError):
        job.result(WAIT_S)
    with pytest.raises(InferenceError, match="the engine was closed"):
        engine.submit(request())


def test_closing_with_grace_lets_the_running_job_finish(engine: Engine, family: SketchFamily, gate: Gate) -> None:
    running = engine.submit(request("first"))
    gate.wait_for_arrival()
    waiting = engine.submit(request("second"))
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(engine.close, WAIT_S)
        with pytest.raises(CancelledError):
            waiting.result(WAIT_S)
        gate.open()
        closing.result(WAIT_S)
    assert running.result(WAIT_S).images
    assert family.closes == ["sketch:v1"]
