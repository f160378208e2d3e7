"""A new kind of job is one module and one line: it runs everywhere that the kinds of mold do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_kinds
from http_server import Server, serving
from toy_kinds import CountRequest, CountResponse, ReverseRequest, add_toy_kinds

from mold_core import Client, Engine, Settings
from mold_core.jobs.kinds import JOB_KINDS
from mold_core.wire import Info


@pytest.fixture(autouse=True)
def toys() -> Iterator[None]:
    before = dict(JOB_KINDS)
    add_toy_kinds()
    yield
    JOB_KINDS.clear()
    JOB_KINDS.update(before)


def toy_server(home: Path) -> Any:
    program = [sys.executable, str(toy_kinds.__file__)]
    return serving(home, program=program, MOLD_EXECUTOR="process", PYTHONPATH=str(Path(toy_kinds.__file__).parent))


def client_of(server: Server) -> Client:
    return Client(f"127.0.0.1:{server.port}")


def test_the_library_runs_a_kind_of_each_lane() -> None:
    with Engine(Settings()) as engine:
        seen: list[Any] = []
        assert engine.run(ReverseRequest(word="mold"), seen.append).word == "dlom"
        assert Info(message="reversing on cpu") in seen
        assert engine.run(CountRequest(word="mold")) == CountResponse(letters=4)


def test_a_worker_process_carries_a_task_that_it_does_not_know() -> None:
    with Engine(Settings(), executor="process") as engine:
        made = engine.run(ReverseRequest(word="mold"))
        assert made.word == "dlom"
        assert made.pid != os.getpid()
        assert engine.run(CountRequest(word="mold")) == CountResponse(letters=4)


def test_a_kind_of_each_lane_outlives_the_engine_that_it_was_submitted_to() -> None:
    with Engine(Settings(), durable=True) as engine:
        engine.pause()
        waiting = engine.submit(ReverseRequest(word="mold"))
        done = engine.submit(CountRequest(word="mold"))
        done.result(60)
    with Engine(Settings(), durable=True) as engine:
        assert engine.job(done.id).result() == CountResponse(letters=4)
        engine.resume()
        assert engine.job(waiting.id).result(60).word == "dlom"


def test_a_server_and_its_client_run_a_kind_of_each_lane(home: Path) -> None:
    home.mkdir()
    with toy_server(home) as server, client_of(server) as client:
        job = client.submit(ReverseRequest(word="mold"))
        assert Info(message="reversing on cpu") in list(job.events())
        assert job.result().word == "dlom"
        assert client.run(CountRequest(word="mold")) == CountResponse(letters=4)
        assert [(one.kind, one.state) for one in client.jobs()] == [("reverse", "done"), ("count", "done")]
        assert [one.id for one in client.jobs(kind="reverse")] == [job.id]
        id = job.id
        counted = server.ask("GET", f"/api/jobs/{client.jobs(kind='count')[0].id}/result")
        assert (counted.type, counted.body, counted.headers["X-Letters"]) == ("text/plain", b"4", "4")
    with toy_server(home) as server, client_of(server) as client:
        assert client.job(id).result().word == "dlom"
        assert server.ask("GET", f"/api/jobs/{id}/result").json()["word"] == "dlom"
