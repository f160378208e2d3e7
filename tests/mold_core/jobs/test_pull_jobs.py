"""Pulls are jobs beside the queue: one at a time, once for each model, cancelled and tried again."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import attrs
import pytest
from fake_hub import FakeHub, fake_hub
from huggingface_hub import close_session, constants

from mold_core import CancelledError, DownloadError, DownloadProgress, Engine, Info, ModelFile, PullComplete
from mold_core.catalog import fetch
from mold_core.jobs.kinds import JOB_KINDS
from mold_core.testing import FakePlugin, SketchFamily, engine_with, sketch_model
from mold_core.wire import PullRequest

WAIT_S = 120.0
WEIGHTS = bytes(range(256)) * 4096


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[FakeHub]:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(fetch, "_WAITS_S", (0.0,))
    with fake_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
    close_session()


@pytest.fixture
def engine(hub: FakeHub) -> Iterator[Engine]:
    models = []
    for name in ("house", "barn"):
        content = name.encode() + WEIGHTS[len(name) :]
        hub.add(f"paint/{name}", "weights.safetensors", content)
        file = ModelFile(
            component="weights",
            path=f"{name}-v1/weights.safetensors",
            repo=f"paint/{name}",
            filename="weights.safetensors",
            size_bytes=len(WEIGHTS),
            sha256=sha256(content).hexdigest(),
        )
        models.append(attrs.evolve(sketch_model(f"{name}:v1"), files=(file,)))
    with engine_with(FakePlugin(families=[SketchFamily()], models=models)) as engine:
        yield engine


def test_a_pulled_model_is_here_and_its_progress_was_told(engine: Engine) -> None:
    job = engine.submit(PullRequest(model="house"))
    assert job.result(WAIT_S).size_bytes == len(WEIGHTS)
    events = job.events_so_far()[0]
    assert any(isinstance(event, DownloadProgress) for event in events)
    assert events[-1] == PullComplete(model="house:v1")
    assert {entry.spec.name: entry.downloaded for entry in engine.models()} == {"house:v1": True, "barn:v1": False}


def test_a_model_is_pulled_once_however_often_it_is_asked_for(engine: Engine) -> None:
    engine._background.queue.pause()
    first, other = (engine.submit(PullRequest(model=name)) for name in ("house", "barn"))
    assert engine.submit(PullRequest(model="house:v1")) is first
    assert [job.position for job in (first, other)] == [1, 2]
    engine._background.queue.resume()
    for job in (first, other):
        job.result(WAIT_S)
    assert engine.submit(PullRequest(model="house")) is not first


def test_a_pull_that_waits_is_cancelled(engine: Engine) -> None:
    engine._background.queue.pause()
    job = engine.submit(PullRequest(model="house"))
    job.cancel()
    engine._background.queue.resume()
    with pytest.raises(CancelledError):
        job.result(WAIT_S)
    engine.submit(PullRequest(model="barn")).result(WAIT_S)
    assert not engine.store.has(engine.resolve("house"))


def test_a_pull_under_way_is_cancelled_and_the_next_one_begins(engine: Engine, hub: FakeHub) -> None:
    file = hub.files["paint/house", "weights.safetensors"]
    file.hold_after, file.pause_s = 1000, 0.005
    job = engine.submit(PullRequest(model="house"))
    assert file.held.wait(WAIT_S)
    other = engine.submit(PullRequest(model="barn"))
    job.cancel()
    file.released.set()
    other.result(WAIT_S)
    assert job.state == "cancelled"
    assert not engine.store.has(engine.resolve("house"))


def test_a_pull_that_fails_is_tried_once_more(engine: Engine, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JOB_KINDS["pull"], "_retry_after_s", 0.0)
    tries = len(fetch._WAITS_S) + 1
    file = hub.files["paint/house", "weights.safetensors"]
    file.statuses = [503] * tries
    job = engine.submit(PullRequest(model="house"))
    job.result(WAIT_S)
    assert any(isinstance(event, Info) and "retrying in 0 s" in event.message for event in job.events())
    file = hub.files["paint/barn", "weights.safetensors"]
    file.statuses = [503] * 20
    with pytest.raises(DownloadError):
        engine.submit(PullRequest(model="barn")).result(WAIT_S)
