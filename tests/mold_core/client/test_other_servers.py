"""Servers that are none of mold's, or that break off: what the client says of them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mold_core import Client, DenoiseStep, GenerateRequest, ServerError, UnreachableError, ValidationError

Respond = Callable[[BaseHTTPRequestHandler], object]

REQUEST = GenerateRequest(prompt="a red house", model="sketch", seed=7)


@contextmanager
def answering(respond: Respond) -> Iterator[Client]:
    """Give a client of a server that answers every request as `respond` does."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            respond(self)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield Client(f"127.0.0.1:{server.server_address[1]}", "")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def sending(status: int, body: bytes, kind: str = "application/json") -> Respond:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.end_headers()
        handler.wfile.write(body)

    return respond


def frame(event: str, data: object) -> bytes:
    return f"event: {event}\ndata: {json.dumps(data)}\n\n".encode()


STEP = frame("progress", {"type": "denoise_step", "step": 1, "total": 2, "elapsed_ms": 3})
NEWER = frame("progress", {"type": "weather", "sun": True})


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>", "does not respond like a mold server"),
        (502, b"<html>bad gateway", "responded with 502 Bad Gateway"),
        (500, b"{}", "responded with 500 Internal Server Error"),
        (404, b"[" * 100_000, "responded with 404 Not Found"),
        (400, b'{"code": "ODD", "error": "odd"}' + b" " * 1_000_000, "responded with 400 Bad Request|odd"),
    ],
)
def test_a_server_that_is_not_mold_s_is_named(status: int, body: bytes, words: str) -> None:
    with answering(sending(status, body)) as client, pytest.raises(ServerError, match=words):
        client.models()


def test_a_code_that_is_not_known_here_is_kept() -> None:
    with answering(sending(418, b'{"code": "TEAPOT", "error": "short and stout"}')) as client:
        with pytest.raises(ServerError, match="short and stout") as caught:
            client.status()
        assert caught.value.code == "TEAPOT"


def test_a_stream_that_breaks_off_is_a_lost_server() -> None:
    seen: list[object] = []
    with (
        answering(sending(200, STEP, "text/event-stream")) as client,
        pytest.raises(UnreachableError, match="was lost before the job finished"),
    ):
        client.generate(REQUEST, seen.append)
    assert [type(event) for event in seen] == [DenoiseStep]


def test_comments_and_events_of_a_newer_server_are_passed_over() -> None:
    end = frame("error", {"code": "VALIDATION_ERROR", "message": "steps is too large"})
    seen: list[object] = []
    body = b": ping\n\n" + NEWER + b"id: 7\n" + STEP + b": ping\n\n" + end
    with (
        answering(sending(200, body, "text/event-stream")) as client,
        pytest.raises(ValidationError, match="steps is too large"),
    ):
        client.generate(REQUEST, seen.append)
    assert [type(event) for event in seen] == [DenoiseStep]


def test_a_server_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(f"127.0.0.1:{silent.getsockname()[1]}", "")
        with pytest.raises(UnreachableError, match="does not respond") as caught:
            client.health(timeout_s=0.05)
    assert not getattr(caught.value, "refused", False)


def test_a_server_that_hangs_up_is_unreachable() -> None:
    def hang_up(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True

    with answering(hang_up) as client, pytest.raises(UnreachableError, match="cannot be reached"):
        client.status()
