"""What a server keeps to itself: the words of plugins' exceptions and where its files lie. Its log has them."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import pytest
from http_server import PATIENCE_S, Server, read_until, serving
from leaky import FAILURES, SECRET, install

from mold_core.text import visible
from mold_http.routes.table import ROUTES

REQUEST = {"model": "leaky:v1", "width": 32, "height": 32, "steps": 1, "seed": 3}
SAID = "leaky:v1 failed while generating: {}; the server's log has the details"


@attrs.frozen
class Leaky:
    """A server with a plugin that says too much, and the log of that server."""

    server: Server
    log: Path


@pytest.fixture(scope="module", params=["process", "inline"])
def leaky(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leaky]:
    """The server; its worker is in a process of its own, or in the server's."""
    folder = tmp_path_factory.mktemp("leaky")
    site, log = install(folder / "site"), folder / "log"
    with (
        log.open("wb") as file,
        serving(
            folder / "home",
            stderr=file,
            stdout=subprocess.DEVNULL,
            PYTHONPATH=str(site),
            MOLD_PLUGINS="http,leaky,flux,nano",
            MOLD_EXECUTOR=request.param,
            MOLD_WEBHOOK_HOSTS="127.0.0.1",
        ) as server,
    ):
        yield Leaky(server, log)


def kept(leaky: Leaky, prompt: str, **more: Any) -> dict[str, Any]:
    """Return a job that has ended."""
    body = {"kind": "generate", "request": {**REQUEST, "prompt": prompt}, **more}
    accepted = leaky.server.ask("POST", "/api/jobs", body)
    assert accepted.status == 202, accepted
    path = f"/api/jobs/{accepted.json()['id']}"
    assert leaky.server.soon(path, lambda job: job["state"] in ("done", "failed", "cancelled"))
    job: dict[str, Any] = leaky.server.ask("GET", path).json()
    return job


def written_soon(log: Path, text: str) -> bool:
    """Say whether a text is in the log within a while: the line follows the state of the job."""
    for _ in range(int(PATIENCE_S / 0.05)):
        if text in log.read_text("utf-8"):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("kind", [name for name in FAILURES if name not in ("OSError", "MemoryError")])
def test_a_plugins_exception_is_told_by_its_type_and_logged_in_full(leaky: Leaky, kind: str) -> None:
    job = kept(leaky, kind)
    assert (job["state"], job["error"], job["code"]) == ("failed", SAID.format(kind), "INFERENCE_ERROR")
    assert written_soon(leaky.log, f"job {job['id']} failed: leaky:v1 failed while generating: {kind}: ")


@pytest.mark.parametrize("kind", FAILURES)
def test_no_route_that_tells_of_a_job_says_more(leaky: Leaky, kind: str) -> None:
    ask = leaky.server.ask
    job = kept(leaky, kind)
    path = f"/api/jobs/{job['id']}"
    request = {**REQUEST, "prompt": kind}
    answers = [
        ask("GET", "/api/jobs"),
        ask("GET", path),
        ask("GET", f"{path}/events"),
        ask("GET", f"{path}/result"),
        ask("DELETE", path),
        ask("POST", "/api/generate", request),
        ask("POST", "/api/generate/stream", request),
        ask("POST", "/v1/images/generations", {"model": "leaky:v1", "prompt": kind, "size": "32x32"}),
    ]
    for answer in answers:
        assert SECRET.encode() not in answer.body
        assert str(leaky.server.home.parent).encode() not in answer.body
    assert written_soon(leaky.log, SECRET)


def test_a_webhook_says_no_more(leaky: Leaky) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(120)
        kept(leaky, "Kaboom", webhook_url=f"http://127.0.0.1:{listener.getsockname()[1]}/hook")
        with listener.accept()[0] as call:
            told = read_until(call, b'"}')
            call.sendall(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")
    assert SAID.format("Kaboom").encode() in told
    assert SECRET.encode() not in told


def test_no_route_says_where_the_files_of_the_server_lie(leaky: Leaky) -> None:
    kept(leaky, "a red house")
    for route in ROUTES:
        if route.method == "GET" and "{" not in route.path and not route.path.endswith(("stream", "/events")):
            body = leaky.server.ask("GET", route.path).body
            assert str(leaky.server.home.parent).encode() not in body, route.path


def test_a_damaged_file_is_named_without_its_folder(leaky: Leaky) -> None:
    damaged = leaky.server.home / "loras" / "ink.safetensors"
    damaged.parent.mkdir(parents=True, exist_ok=True)
    damaged.write_bytes(b"no tensors here")
    request = {"prompt": "a house", "model": "flux-nano", "loras": [{"path": "ink", "scale": 1}], "steps": 1}
    for body in (request, {**request, "loras": [{"path": "nosuch", "scale": 1}]}):
        answer = leaky.server.ask("POST", "/api/generate", body)
        assert answer.status >= 400
        assert str(leaky.server.home.parent).encode() not in answer.body


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_client_cannot_write_lines_of_its_own_into_the_log(tmp_path: Path, form: str) -> None:
    log = tmp_path / "log"
    forged = "2026-01-01 00:00:00,000 ERROR mold.http: forged"
    with (
        log.open("wb") as file,
        serving(tmp_path / "home", stderr=file, MOLD_LOG="info", MOLD_LOG_FORMAT=form, MOLD_PLUGINS="http") as server,
    ):
        server.ask("GET", f"/x%0a{quote(forged)}%1b%5b2J%c2%9b%e2%80%ae%e2%80%a8{quote(forged)}")
        for method in ("WEBSOCKET", "GET%0aX", "FORGED"):
            server.raw(
                f"{method} /ws%0d%0a{quote(forged)} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
    text = log.read_text("utf-8")
    assert "forged" in text
    assert [char for char in text if char != "\n" and visible(char) != char] == []
    assert not [line for line in text.splitlines() if line.lstrip().startswith(forged[:10])]
