"""The server as a client sees it: `mold serve` in a process of its own, asked over real HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mold_core.media.images import decode_image
from mold_core.media.metadata import read_metadata

EXECUTABLE = Path(sys.executable).parent / "mold"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    home = tmp_path_factory.mktemp("server")
    environment = {**os.environ, "MOLD_HOME": str(home), "MOLD_DEVICE": "cpu", "PYTHONWARNINGS": "error"}
    with subprocess.Popen([EXECUTABLE, "serve", "--port", str(number)], env=environment) as process:
        try:
            _wait_until_up(number, process)
            yield number
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)


def _wait_until_up(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the server ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the server did not come up")


def ask(
    port: int, method: str, path: str, body: object = None, **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Return status, headers and body of an answer; a dict is sent as JSON, bytes as they are."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def frames(stream: bytes) -> list[tuple[str, dict[str, object]]]:
    """Return name and data of every server-sent event."""
    events = []
    for block in stream.decode().strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            events.append((fields["event"], json.loads(fields["data"])))
    return events


def test_health_is_an_empty_200(port: int) -> None:
    status, _, body = ask(port, "GET", "/health")
    assert (status, body) == (200, b"")


def test_generate_answers_with_the_picture_and_its_seed(port: int) -> None:
    status, headers, body = ask(port, "POST", "/api/generate", {"prompt": "a red house", "seed": 42})
    assert status == 200
    assert headers["content-type"] == "image/png"
    assert headers["x-mold-seed-used"] == "42"
    assert "x-mold-dimension-warning" not in headers
    assert decode_image(body).size == (128, 128)
    metadata = read_metadata(body)
    assert metadata is not None
    assert (metadata.prompt, metadata.seed) == ("a red house", 42)


def test_other_formats_are_answered_with_their_type(port: int) -> None:
    _, headers, body = ask(port, "POST", "/api/generate", {"prompt": "a tree", "output_format": "webp", "steps": 1})
    assert headers["content-type"] == "image/webp"
    assert body[:4] == b"RIFF"


def test_adjusted_dimensions_are_said_in_a_header(port: int) -> None:
    _, headers, body = ask(port, "POST", "/api/generate", {"prompt": "a tree", "width": 100, "height": 100, "steps": 1})
    assert headers["x-mold-dimension-warning"] == "dimensions adjusted from 100x100 to 96x96"
    assert decode_image(body).size == (96, 96)


def test_the_stream_reports_every_step_and_ends_with_the_same_picture(port: int) -> None:
    request = {"prompt": "a blue boat on the sea", "seed": 5, "steps": 3}
    status, headers, stream = ask(port, "POST", "/api/generate/stream", request)
    events = frames(stream)
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert [data["step"] for name, data in events if name == "progress" and data["type"] == "denoise_step"] == [1, 2, 3]
    name, complete = events[-1]
    assert name == "complete"
    assert complete["seed_used"] == 5
    picture = bytes(complete["images"][0]["data"])  # type: ignore[index]
    assert picture == ask(port, "POST", "/api/generate", request)[2]


def test_status_and_models_tell_what_is_loaded(port: int) -> None:
    ask(port, "POST", "/api/generate", {"prompt": "a tree", "steps": 1})
    status = json.loads(ask(port, "GET", "/api/status")[2])
    models = {model["name"]: model for model in json.loads(ask(port, "GET", "/api/models")[2])}
    assert status["models_loaded"] == ["flux-nano:bf16"]
    assert status["queue_capacity"] == 200
    assert models["flux-nano:bf16"]["is_loaded"]
    assert models["flux-nano:bf16"]["downloaded"]
    assert not models["flux-dev:q8"]["downloaded"]


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        (b'{"promp', 400, "BAD_REQUEST", "not JSON"),
        (b"[" * 100_000, 400, "BAD_REQUEST", "nested too deeply"),
        (b'{"prompt": "x", "guidance": NaN}', 400, "BAD_REQUEST", "NaN"),
        ({}, 422, "VALIDATION_ERROR", "prompt is required"),
        ({"prompt": "x", "steps": 0, "width": "9"}, 422, "VALIDATION_ERROR", "width must be a whole number"),
        ({"prompt": "x", "model": "flux-nan"}, 400, "UNKNOWN_MODEL", "nearest: flux-nano:bf16"),
        ({"prompt": "x", "model": "flux-dev"}, 404, "MODEL_NOT_FOUND", "not downloaded"),
        ({"prompt": "x", "source_image": "aGk="}, 422, "VALIDATION_ERROR", "source_image"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(port: int, body: object, status: int, code: str, words: str) -> None:
    for path in ("/api/generate", "/api/generate/stream"):
        got, headers, content = ask(port, "POST", path, body)
        envelope = json.loads(content)
        assert (got, envelope["code"]) == (status, code)
        assert words in envelope["error"]
        assert headers["x-request-id"]


def test_a_body_over_the_limit_is_refused_before_it_is_read(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest("POST", "/api/generate")
    connection.putheader("Content-Length", str(10**9))
    connection.endheaders(b'{"prompt": "' + b"x" * 1000)
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7680", "localhost.evil.example", ""])
def test_only_requests_for_this_machine_are_answered(port: int, host: str) -> None:
    status, _, body = ask(port, "GET", "/api/status", Host=host)
    assert status in (400, 403)
    assert b"uptime" not in body


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}]
)
def test_pages_of_other_sites_cannot_make_pictures(port: int, headers: dict[str, str]) -> None:
    status, _, body = ask(port, "POST", "/api/generate", {"prompt": "a tree"}, **headers)
    assert status == 403
    assert json.loads(body)["code"] == "FORBIDDEN"


def test_a_request_id_is_kept_where_it_is_harmless(port: int) -> None:
    assert ask(port, "GET", "/health", X_Request_ID="abc-123")[1]["x-request-id"] == "abc-123"
    assert ask(port, "GET", "/health", X_Request_ID="a b<c>")[1]["x-request-id"] != "a b<c>"


def test_unknown_paths_and_methods_have_the_same_envelope(port: int) -> None:
    for method, path, expected in (("GET", "/nope", 404), ("DELETE", "/api/models", 405)):
        status, _, body = ask(port, method, path)
        assert status == expected
        assert json.loads(body).keys() == {"error", "code"}


def test_a_client_that_leaves_a_stream_cancels_its_job(port: int) -> None:
    body = json.dumps({"prompt": "a tree", "steps": 100, "width": 256, "height": 256, "batch_size": 50}).encode()
    with socket.create_connection(("127.0.0.1", port)) as client:
        head = f"POST /api/generate/stream HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        while b"denoise_step" not in client.recv(65536):
            pass
    assert _idle_soon(port)


def _idle_soon(port: int) -> bool:
    for _ in range(200):
        if not json.loads(ask(port, "GET", "/api/status")[2])["busy"]:
            return True
        time.sleep(0.05)
    return False
