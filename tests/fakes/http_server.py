"""The real server in a process of its own, and a client that sees everything: status, headers, bytes."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs

__all__ = ["PATIENCE_S", "Answer", "Server", "events", "serving"]

EXECUTABLE = Path(sys.executable).parent / "mold"

# How long anything may take before a test gives up: no measure of speed, only the end of waiting for what never comes.
PATIENCE_S = 300.0


@attrs.frozen
class Answer:
    """An HTTP answer, whole."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        """Return the body, which must be JSON."""
        assert (self.headers["content-type"] or "").startswith("application/json"), self
        return json.loads(self.body)

    @property
    def type(self) -> str:
        """The content type without its parameters."""
        return (self.headers["content-type"] or "").partition(";")[0]


@attrs.frozen
class Server:
    """A running server."""

    port: int
    home: Path
    process: subprocess.Popen[bytes]

    def ask(
        self, method: str, path: str, body: object = None, *, patience_s: float = PATIENCE_S, **headers: str | None
    ) -> Answer:
        """Return the answer to a request; what is no bytes is sent as JSON. A header of None is left out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=patience_s)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if body is not None else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}  # type: ignore[misc]
        try:
            connection.request(method, path, data, {name: value for name, value in sent.items() if value is not None})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def raw(self, data: bytes, timeout_s: float = PATIENCE_S) -> bytes:
        """Send bytes as they are and return what comes back until the server closes or says `Connection: close`."""
        with self.connect(timeout_s) as connection:
            connection.sendall(data)
            return read_all(connection)

    def connect(self, timeout_s: float = PATIENCE_S) -> socket.socket:
        """Return an open connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s)

    def begin(self, method: str, path: str, body: object = None, **headers: str) -> socket.socket:
        """Send a request and return the connection without reading the answer."""
        data = b"" if body is None else json.dumps(body).encode()
        head = [f"{method} {path} HTTP/1.1", f"Host: localhost:{self.port}", f"Content-Length: {len(data)}"]
        if body is not None:
            head.append("Content-Type: application/json")
        head += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        connection = self.connect()
        connection.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + data)
        return connection

    def soon(self, path: str, wanted: Any, patience_s: float = PATIENCE_S) -> bool:
        """Say whether the JSON at a path becomes as `wanted` says within a while."""
        for _ in range(int(patience_s / 0.05)):
            if wanted(self.ask("GET", path).json()):
                return True
            time.sleep(0.05)
        return False


def read_all(connection: socket.socket) -> bytes:
    """Return all that comes until the other side closes; a reset counts as the end."""
    received = b""
    try:
        while chunk := connection.recv(65_536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def read_until(connection: socket.socket, words: bytes) -> bytes:
    """Return what comes up to and with `words`, and what came with them."""
    received = b""
    while words not in received:
        chunk = connection.recv(65_536)
        assert chunk, received
        received += chunk
    return received


def events(stream: bytes) -> list[tuple[str, Any]]:
    """Return name and data of every server-sent event."""
    found = []
    for block in stream.decode().strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


@contextmanager
def serving(
    home: Path,
    *arguments: str,
    stdout: Any = None,
    stderr: Any = None,
    log: Path | None = None,
    descriptors: int | None = None,
    program: Sequence[str] = (str(EXECUTABLE),),
    **environment: str,
) -> Iterator[Server]:
    """Give a server that runs in `home` on a free port, and end it; it must end with status 0.

    `stdout` and `stderr` are where its streams go, as Popen takes them; `log` is a file for the latter. It may have so
    many `descriptors`. `program` is the command line of mold.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MOLD_")}
    settings = {
        "MOLD_HOME": str(home),
        "MOLD_DEVICE": "cpu",
        "MOLD_EXECUTOR": "inline",  # most servers here make no image, and need no worker that imports torch
        "PYTHONWARNINGS": "error",
        **environment,
    }
    command = [*program, "serve", "--port", str(port), *arguments]
    if descriptors is not None:
        command = ["/bin/sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command]
    with ExitStack() as stack:
        where = {"cwd": home.parent, "stdout": stdout, "stderr": stack.enter_context(log.open("wb")) if log else stderr}
        process = stack.enter_context(subprocess.Popen(command, env={**inherited, **settings}, **where))
        try:
            _wait_until_up(port, process)
            yield Server(port, home, process)
        finally:
            killed = process.poll() == -signal.SIGKILL  # by the test
            process.send_signal(signal.SIGTERM)
            try:
                status = process.wait(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert killed or status == 0


def _wait_until_up(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(int(PATIENCE_S / 0.05)):
        assert process.poll() is None, "the server ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the server did not come up")
