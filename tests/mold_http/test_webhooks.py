"""Webhooks: whoever asked is told of the end of a job, if not at once then later, if not by this server by the next."""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import attrs
import pytest
from http_server import Server, serving

from mold_core import GenerateRequest
from mold_core.jobs.webhook_outbox import Webhook
from mold_core.testing import FakePlugin, SketchFamily, engine_with, sketch_model
from mold_http.webhooks import MAX_ATTEMPTS, Webhooks, pause_after

SMALL = {"prompt": "a tree", "steps": 1, "width": 64, "height": 64, "seed": 3}


@attrs.frozen
class Told:
    """A call as it came."""

    path: str
    attempt: str
    job: Any


@contextmanager
def listening(port: int, *statuses: int) -> Iterator[Queue[Told]]:
    """Listen on a port and give all calls; they are answered with `statuses` in turn, the last again and again."""
    told: Queue[Told] = Queue()
    answers = list(statuses)

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.put(Told(self.path, self.headers["X-Mold-Attempt"], body))
            self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", port), Listener)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


@pytest.fixture
def port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def ask(server: Server, port: int, path: str = "/told?a=1", **headers: str) -> str:
    body = {"kind": "generate", "request": SMALL, "webhook_url": f"http://127.0.0.1:{port}{path}"}
    answer = server.ask("POST", "/api/jobs", body, **headers)
    assert answer.status == 202, answer
    return str(answer.json()["id"])


def rows(home: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(home / "jobs/jobs.db")) as connection:
        return connection.execute("SELECT job, attempts, due_at FROM webhooks").fetchall()


def ended(server: Server, id: str) -> bool:
    return server.soon(f"/api/jobs/{id}", lambda job: job["state"] in ("done", "failed", "cancelled"))


def test_the_end_of_a_job_is_told_until_it_is_heard(tmp_path: Path, port: int) -> None:
    home = tmp_path / "home"
    with listening(port, 503, 302, 204) as told, serving(home, MOLD_WEBHOOK_HOSTS=f"127.0.0.1:{port}") as server:
        id_ = ask(server, port)
        calls = [told.get(timeout=120) for _ in range(3)]
        assert [(call.path, call.attempt) for call in calls] == [("/told?a=1", str(number)) for number in (1, 2, 3)]
        assert all((call.job["id"], call.job["state"]) == (id_, "done") for call in calls)
    assert rows(home) == []
    assert told.empty()


def test_several_are_told_and_each_once_however_often_it_is_asked_for(tmp_path: Path, port: int) -> None:
    with listening(port, 200) as told, serving(tmp_path / "home", MOLD_WEBHOOK_HOSTS="127.0.0.1") as server:
        server.ask("POST", "/api/queue/pause")
        (id_,) = {ask(server, port, path, Idempotency_Key="one") for path in ("/a", "/b", "/a")}
        server.ask("DELETE", f"/api/jobs/{id_}")
        calls = [told.get(timeout=120) for _ in range(2)]
        assert {(call.path, call.job["state"]) for call in calls} == {("/a", "cancelled"), ("/b", "cancelled")}
        ask(server, port, "/late", Idempotency_Key="one")
        assert told.get(timeout=120).path == "/late"
    assert told.empty()


def test_what_was_not_heard_is_told_after_the_server_was_killed(tmp_path: Path, port: int) -> None:
    home = tmp_path / "home"
    with serving(home, MOLD_WEBHOOK_HOSTS="127.0.0.1") as first:
        id_ = ask(first, port)
        assert ended(first, id_)
        assert first.soon("/api/status", lambda _: rows(home) and rows(home)[0][1] >= 1)  # nobody listens
        first.process.kill()
        first.process.wait(120)
    with listening(port, 200) as told, serving(home, MOLD_WEBHOOK_HOSTS="127.0.0.1") as second:
        call = told.get(timeout=120)
        assert (call.job["id"], call.job["state"], int(call.attempt) >= 2) == (id_, "done", True)
        assert second.soon("/api/status", lambda _: not rows(home))
    assert told.empty()


def test_a_job_that_goes_on_after_a_restart_is_told_of_when_it_has_ended(tmp_path: Path, port: int) -> None:
    home = tmp_path / "home"
    with listening(port, 200) as told:
        with serving(home, MOLD_WEBHOOK_HOSTS="127.0.0.1") as first:
            first.ask("POST", "/api/queue/pause")
            id_ = ask(first, port)
        assert told.empty()
        with serving(home, MOLD_WEBHOOK_HOSTS="127.0.0.1") as second:
            second.ask("POST", "/api/queue/resume")
            call = told.get(timeout=120)
            assert (call.job["id"], call.job["state"]) == (id_, "done")


@pytest.mark.parametrize("hosts", ["127.0.0.1", "elsewhere.example"])
def test_it_is_given_up_after_many_attempts_or_when_the_host_is_no_longer_allowed(
    tmp_path: Path, port: int, hosts: str
) -> None:
    home = tmp_path / "home"
    with serving(home, MOLD_WEBHOOK_HOSTS="127.0.0.1") as first:
        first.ask("POST", "/api/queue/pause")
        ask(first, port)
    with closing(sqlite3.connect(home / "jobs/jobs.db")) as connection:
        connection.execute(f"UPDATE webhooks SET attempts = {MAX_ATTEMPTS - 1}")
        connection.commit()
    with listening(port, 500) as told, serving(home, MOLD_WEBHOOK_HOSTS=hosts) as second:
        second.ask("POST", "/api/queue/resume")
        assert second.soon("/api/status", lambda _: not rows(home))
    assert told.qsize() == (1 if hosts == "127.0.0.1" else 0)


def test_pauses_double_up_to_an_hour() -> None:
    assert [pause_after(attempts) for attempts in (1, 2, 3, 12, 13, MAX_ATTEMPTS)] == [1, 2, 4, 2048, 3600, 3600]


def test_only_allowed_hosts_are_told(tmp_path: Path, port: int) -> None:
    with serving(tmp_path / "home", MOLD_WEBHOOK_HOSTS=f"127.0.0.1:{port}") as server:
        for url in ("http://127.0.0.1:1/", f"http://user@127.0.0.1:{port}/", f"ftp://127.0.0.1:{port}/", "x"):
            body = {"kind": "generate", "request": SMALL, "webhook_url": url}
            assert server.ask("POST", "/api/jobs", body).status == 422


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:{port}/é",
        "http://127.0.0.1:{port}/?a=ü",
        "http://127.0.0.1:{port}/a b",
        "http://127.0.0.1:{port}/a\tb",
        "http://127.0.0.1:{port}/a\r\nX-Evil: 1",
        "http://127.0.0.1:{port}/\x7f",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:port/",
        "http://:{port}/",
        "http:///path",
        "http://[::1/",
    ],
)
def test_an_address_that_cannot_be_called_is_refused_when_it_is_given(address: str, keyless: Server, port: int) -> None:
    body = {"kind": "generate", "request": SMALL, "webhook_url": address.format(port=port)}
    answer = keyless.ask("POST", "/api/jobs", body)
    assert (answer.status, answer.json()["code"]) == (422, "VALIDATION_ERROR")
    assert "webhook_url" in answer.json()["error"]
    assert keyless.ask("GET", "/api/jobs").json() == []


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("hooks") / "home", MOLD_WEBHOOK_HOSTS="127.0.0.1,::1") as server:
        yield server


def test_a_delivery_that_fails_in_an_unforeseen_way_ends_after_its_attempts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*arguments: object) -> int:
        raise RuntimeError("what nobody thought of")

    monkeypatch.setattr("mold_http.webhook_client.WebhookClient.post", fails)
    with engine_with(FakePlugin(families=[SketchFamily()], models=[sketch_model()])) as engine:
        job = engine.submit(GenerateRequest(prompt="a tree", model="sketch"))
        job.result(30)
        webhooks = Webhooks(engine, ["127.0.0.1"])
        for attempts in range(MAX_ATTEMPTS):
            engine.webhooks.add(job.id, "http://127.0.0.1/")
            webhooks._posting += 1
            webhooks._deliver(Webhook(job_id=job.id, url="http://127.0.0.1/", attempts=attempts))
        assert engine.webhooks.waiting() == ()
        assert engine.webhooks.take_due(9) == ([], None)
