"""Workers that are stopped, hang or do not answer to being cancelled are replaced, and their jobs run again once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import attrs
import pytest
from deadly import DeadlyFamily

from mold_core import Engine, GenerateRequest, Settings
from mold_core.catalog import ModelFile
from mold_core.engine.worker.process import ProcessWorker
from mold_core.engine.worker.pulse import Pulse, make_pulse
from mold_core.engine.worker.vigil import Call, Vigil, call_for
from mold_core.testing import FakePlugin, engine_with, sketch_model

WAIT_S = 120.0


def request(prompt: str = "a house", **fields: Any) -> GenerateRequest:
    return GenerateRequest(prompt=prompt, model="sketch", **fields)


@contextmanager
def engine(family: DeadlyFamily, **settings: Any) -> Iterator[Engine]:
    plugin = FakePlugin(families=[family], models=[sketch_model()])
    with engine_with(plugin, executor="process", **settings) as started:
        yield started


def until(condition: Callable[[], object]) -> None:
    deadline = monotonic() + WAIT_S
    while not condition():
        assert monotonic() < deadline
        sleep(0.01)


def worker_of(engine: Engine) -> ProcessWorker:
    worker = engine._runners[0]._worker
    assert isinstance(worker, ProcessWorker)
    return worker


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.soak
def test_a_job_whose_worker_is_stopped_is_run_again_by_another(caplog: pytest.LogCaptureFixture) -> None:
    with engine(DeadlyFamily(step_s=0.05), worker_silence_s=5.0) as started:
        job = started.submit(request(steps=40))
        until(lambda: started.loaded() or any(type(e).__name__ == "DenoiseStep" for e in job.events_so_far()[0]))
        pid = worker_of(started).pid
        os.kill(pid, signal.SIGSTOP)
        assert job.result(WAIT_S).images
        assert job.attempts == 2
        assert gone(pid)
    assert "the worker process of cpu gave no sign of life for 5 s and was ended" in caplog.text


def test_a_worker_that_is_stopped_while_it_has_nothing_to_do_is_replaced_before_the_next_job() -> None:
    with engine(DeadlyFamily(), worker_silence_s=5.0) as started:
        started.generate(request())
        pid = worker_of(started).pid
        os.kill(pid, signal.SIGSTOP)
        until(lambda: gone(pid))
        job = started.submit(request())
        assert job.result(WAIT_S).images
        assert job.attempts == 1


def test_a_job_whose_worker_hangs_is_run_again_once(tmp_path: Path) -> None:
    with engine(DeadlyFamily(stuck_in=str(tmp_path / "stuck")), worker_stall_s=8.0) as started:
        job = started.submit(request("stuck once"))
        assert job.result(WAIT_S).images
        assert job.attempts == 2


def test_a_worker_that_does_not_answer_to_being_cancelled_is_replaced(tmp_path: Path) -> None:
    marker = tmp_path / "stuck"
    with engine(DeadlyFamily(stuck_in=str(marker)), worker_cancel_s=1.0) as started:
        job = started.submit(request("stuck"))
        until(marker.exists)
        pid = worker_of(started).pid
        waiting = started.submit(request("a tree"))
        job.cancel()
        assert waiting.result(WAIT_S).images
        assert (job.state, waiting.attempts) == ("cancelled", 1)
        assert gone(pid)


@pytest.fixture
def pulse() -> Iterator[Pulse]:
    descriptor = make_pulse()
    page = Pulse(descriptor)
    os.close(descriptor)
    yield page
    page.close()


def test_what_both_sides_of_a_page_write_the_other_reads() -> None:
    descriptor = make_pulse()
    here, there = Pulse(descriptor), Pulse(descriptor)
    os.close(descriptor)
    there.beat()
    there.progress()
    there.begin(7)
    here.cancel(7)
    assert (here.beats, here.progressed, here.begun, there.cancelled) == (1, 1, 7, 7)
    here.close()
    there.close()


def looks(pulse: Pulse, call: Call | None, each: Callable[[], object], seconds: int) -> str | None:
    """Return what a vigil finds when it looks once a second, and `each` happens in between."""
    vigil = Vigil(pulse, Settings(worker_silence_s=10, worker_stall_s=20, worker_cancel_s=5), lambda: call)
    for _ in range(seconds):
        each()
        if found := vigil._look(1.0):
            return found
    return None


def test_a_vigil_lets_work_be_that_goes_on_and_finds_what_does_not(pulse: Pulse) -> None:
    call = Call(number=1, stall_s=20)

    def lives() -> None:
        pulse.beat()

    def works() -> None:
        pulse.beat()
        pulse.progress()

    pulse.begin(1)
    assert looks(pulse, call, works, 1000) is None
    assert looks(pulse, None, lives, 1000) is None
    assert looks(pulse, call, lives, 1000) == "made no progress for 20 s"
    assert looks(pulse, None, lambda: None, 1000) == "gave no sign of life for 10 s"
    pulse.cancel(1)
    assert looks(pulse, call, works, 1000) == "went on for 5 s after it was cancelled"
    assert looks(pulse, Call(number=2, stall_s=20), works, 1000) is None  # it waits for the one that was cancelled


def test_the_limit_of_a_stall_grows_with_the_work() -> None:
    settings = Settings(worker_stall_s=100)
    spec = sketch_model()
    small, large = (request(width=side, height=side, steps=10) for side in (64, 1024))
    loading = call_for(1, settings, _of_size(10_000_000_000), [small], load=True)
    assert 100 < call_for(1, settings, spec, [small]).stall_s < 102
    assert call_for(1, settings, spec, [large] * 2).stall_s > 500
    assert loading.stall_s > 1100
    assert call_for(1, settings).stall_s == 100


def _of_size(size_bytes: int) -> Any:
    return attrs.evolve(
        sketch_model(), files=(ModelFile(component="weights", path="w", size_bytes=size_bytes, sha256="0" * 64),)
    )
