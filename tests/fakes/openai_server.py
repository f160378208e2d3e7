"""An OpenAI-compatible server on loopback that answers as it is told: well, wrongly, late, or not at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs

__all__ = ["Asked", "ChatServer", "chat_server", "completion"]


@attrs.frozen
class Asked:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@attrs.define
class ChatServer:
    """`answers` are used up in order, the last again and again: a text to complete with, or what handles a request."""

    url: str
    answers: list[str | Callable[[BaseHTTPRequestHandler], None]]
    asked: list[Asked] = attrs.field(factory=list)
    released: threading.Event = attrs.field(factory=threading.Event)

    def next_answer(self) -> str | Callable[[BaseHTTPRequestHandler], None]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def completion(text: str | None, **fields: Any) -> dict[str, Any]:
    """Return a chat completion as servers send it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "fake",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text, **fields}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def send(handler: BaseHTTPRequestHandler, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
    """Answer with JSON, or with bytes as they are."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def chat_server(*answers: str | Callable[[BaseHTTPRequestHandler], None]) -> Iterator[ChatServer]:
    """Run a server with these answers; at the end, answers that still wait on `released` are let go."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append(Asked(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            if not self.path.endswith("/v1/chat/completions"):
                send(self, 404, {"error": {"message": "no such route"}})
                return
            answer = server.next_answer()
            try:
                send(self, 200, completion(answer)) if isinstance(answer, str) else answer(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    server = ChatServer(f"http://127.0.0.1:{httpd.server_address[1]}", list(answers))
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        httpd.shutdown()
        httpd.server_close()
        thread.join()
