"""Workers in processes of their own: the same images, and a death there is survived here."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from deadly import DeadlyFamily

from mold_core import (
    CancelledError,
    Engine,
    GenerateRequest,
    InferenceError,
    PluginError,
    Plugins,
    ProgressEvent,
    Settings,
    SettingsError,
    hookimpl,
    load_plugins,
)
from mold_core.engine import MetricSample
from mold_core.engine.worker.local import InlineExecutor, LocalWorker
from mold_core.engine.worker.process import ProcessExecutor, ProcessWorker
from mold_core.errors import WorkerError
from mold_core.jobs.kinds.generate import GenerateTask
from mold_core.testing import FakePlugin, Gate, RecordedRun, SketchFamily, engine_with, sketch_model

WAIT_S = 120.0
SPEC = sketch_model()


def request(prompt: str = "a red house", **fields: Any) -> GenerateRequest:
    return GenerateRequest(prompt=prompt, **{"model": "sketch", "seed": 7, **fields})


def complete(**fields: Any) -> GenerateRequest:
    return request(**{"model": "sketch:v1", "width": 32, "height": 32, "steps": 2, "guidance": 1.0, **fields})


def plugin(family: SketchFamily) -> FakePlugin:
    return FakePlugin(families=[family], models=[SPEC])


@contextmanager
def worker(family: SketchFamily) -> Iterator[ProcessWorker]:
    started = ProcessExecutor().start("cpu", Settings(), load_plugins(found=(), extra=[("mine", plugin(family))]))
    try:
        yield started
    finally:
        started.close()


def until(condition: Callable[[], object]) -> None:
    deadline = monotonic() + WAIT_S
    while not condition():
        assert monotonic() < deadline
        sleep(0.005)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with engine_with(
        plugin(DeadlyFamily(error=RuntimeError("boom"), error_for="cursed")), executor="process"
    ) as engine:
        yield engine


def pid_of(engine: Engine) -> int:
    worker = engine._runners[0]._worker
    assert isinstance(worker, ProcessWorker)
    return worker.pid


def test_a_process_makes_the_same_image_and_tells_the_same_events(engine: Engine) -> None:
    there: list[ProgressEvent] = []
    here: list[ProgressEvent] = []
    made = engine.generate(request(width=33), there.append)
    with engine_with(plugin(SketchFamily())) as inline:
        expected = inline.generate(request(width=33), here.append)
    assert made.images == expected.images
    assert [type(event) for event in there] == [type(event) for event in here]
    assert pid_of(engine) != os.getpid()
    assert engine.loaded() == {"sketch:v1"}


def test_an_error_there_is_the_error_here_and_its_cause_is_in_the_log(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InferenceError, match="sketch:v1 failed while generating: RuntimeError: boom"):
        engine.generate(request("cursed"))
    assert "Traceback" in caplog.text


def test_what_a_process_prints_goes_to_the_log(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mold.worker"):
        engine.generate(request("a wall that says hello"))
        until(lambda: "cpu: a wall that says hello" in caplog.text)


def test_models_there_are_loaded_and_unloaded_from_here(engine: Engine) -> None:
    assert engine.load("sketch") == "cpu"
    assert engine.unload() == (("cpu", "sketch:v1"),)
    assert engine.loaded() == frozenset()


def test_a_job_whose_process_is_killed_is_run_again_and_done() -> None:
    measures: list[MetricSample] = []
    with engine_with(plugin(SketchFamily(step_s=0.02)), executor="process") as engine:
        engine.observers.add(measures.append)
        job = engine.submit(request(steps=40))
        until(lambda: any(type(event).__name__ == "DenoiseStep" for event in job.events_so_far()[0]))
        first = pid_of(engine)
        os.kill(first, signal.SIGKILL)
        assert job.result(WAIT_S).images
        assert (job.attempts, job.state) == (2, "done")
        assert pid_of(engine) != first
        assert engine.devices()[0].restarts == 1
    assert [measure.name for measure in measures].count("worker_restart") == 1


@pytest.mark.parametrize(("prompt", "how"), [("killed", "was ended by SIGKILL"), ("ended", "ended with status 3")])
def test_a_job_that_kills_its_process_twice_fails_alone_and_in_words(engine: Engine, prompt: str, how: str) -> None:
    engine.pause()
    bad, good = engine.submit(request(prompt)), engine.submit(request("a tree"))
    engine.resume()
    with pytest.raises(WorkerError, match=f"the worker process of cpu {how}"):
        bad.result(WAIT_S)
    assert good.result(WAIT_S).images
    assert bad.attempts == 2


def test_a_process_that_dies_idle_is_replaced_before_the_next_job(engine: Engine) -> None:
    engine.generate(request())
    first = pid_of(engine)
    os.kill(first, signal.SIGKILL)
    until(lambda: engine.devices()[0].state == "idle" and engine._runners[0]._worker and pid_of(engine) != first)
    job = engine.submit(request())
    assert job.result(WAIT_S).images
    assert job.attempts == 1


def test_cancelling_is_seen_there_at_the_next_step() -> None:
    class Watched(RecordedRun):
        """Cancels while the second step is computed."""

        @contextmanager
        def on_cancel(self, cancelled: Callable[[], object]) -> Iterator[None]:
            self.cancel = cancelled
            yield

        def step(self, step: int, total: int, elapsed_ms: int) -> None:
            if step == 1:
                self.cancel()

    family = SketchFamily(step_s=0.3, error=RuntimeError("it went on"), error_at=5)
    with worker(family) as there, pytest.raises(CancelledError, match="the job was cancelled"):
        there.run(GenerateTask(SPEC, [complete(steps=9)]), Watched())


def test_a_run_that_raises_ends_the_call_and_the_worker_goes_on() -> None:
    with worker(SketchFamily(step_s=0.01)) as there:
        with pytest.raises(CancelledError):
            there.run(GenerateTask(SPEC, [complete(steps=100)]), RecordedRun(cancel_after=2))
        (made,) = there.run(GenerateTask(SPEC, [complete()]), RecordedRun())
        assert made.images[0].size == (32, 32)


def test_a_closed_worker_leaves_no_process() -> None:
    with worker(SketchFamily()) as there:
        pid = there.pid
        assert there.alive
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_worker_that_hangs_is_ended_with_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mold_core.engine.engine._CLOSE_TIMEOUT_S", 0.1)
    with engine_with(plugin(SketchFamily(step_s=1000)), executor="process") as engine:
        job = engine.submit(request())
        until(lambda: engine.loaded())
        pid = pid_of(engine)
        engine.close()
        assert job.state == "cancelled"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_worker_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = """
import sys
from mold_core import Settings, load_plugins
from mold_core.engine.worker.process import ProcessExecutor
print(ProcessExecutor().start("cpu", Settings(), load_plugins(found=())).pid, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text())


def test_a_plugin_object_that_cannot_travel_is_refused_with_the_way_out() -> None:
    with (
        engine_with(plugin(SketchFamily(gate=Gate())), executor="process") as engine,
        pytest.raises(PluginError, match=r"cannot be sent to another process: .*; install it with an entry point"),
    ):
        engine.generate(request())


def test_an_executor_that_is_not_there_is_refused() -> None:
    with (
        pytest.raises(SettingsError, match="there is no executor 'cluster'; there is inline, process"),
        engine_with(executor="cluster"),
    ):
        pass


def test_two_workers_share_the_work() -> None:
    with engine_with(plugin(SketchFamily(step_s=0.05)), executor="process", cpu_workers=2) as engine:
        engine.start()
        engine.pause()
        assert engine.queue.wait_for_idle(2, WAIT_S)
        jobs = [engine.submit(request(seed=seed, steps=4)) for seed in range(6)]
        engine.resume()
        for job in jobs:
            job.result(WAIT_S)
        status = engine.devices()
        assert [device.device for device in status] == ["cpu:0", "cpu:1"]
        assert [device.models for device in status] == [("sketch:v1",)] * 2
        assert engine.load("sketch", "cpu:1") == "cpu:1"
        assert engine.unload(device="cpu:0") == (("cpu:0", "sketch:v1"),)
        assert engine.load("sketch") == "cpu:1"


def test_a_plugin_may_say_where_models_run() -> None:
    started: list[str] = []

    class Elsewhere(InlineExecutor):
        name = "elsewhere"

        def start(self, device: str, settings: Settings, plugins: Plugins) -> LocalWorker:
            started.append(device)
            return super().start(device, settings, plugins)

    class Cluster:
        @hookimpl
        def mold_executors(self) -> list[Elsewhere]:
            return [Elsewhere()]

    with engine_with(plugin(SketchFamily()), Cluster(), executor="elsewhere") as engine:
        assert engine.generate(request()).images
    assert started == ["cpu"]
