"""What the HTTP layer costs: an answer against a bare Falcon hello, an event, and status while the server works.

    python benchmarks/http_api.py

1. p50 of GET /api/status ÷ p50 of a hello of Falcon on the same uvicorn, asked in turn over kept connections,
   both servers on one core and the client on another.
2. Processor time that the server takes to send an event to a stream, with 50 streams open.
3. p95 of GET /api/status while an image is computed on the CPU and 50 streams of its events are open.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from common import report

STREAMS = 50
CORES = sorted(os.sched_getaffinity(0))

HELLO = """
import sys, falcon.asgi, uvicorn

class Hello:
    async def on_get(self, req, resp):
        resp.media = {"hello": "world"}

app = falcon.asgi.App()
app.add_route("/api/status", Hello())
uvicorn.run(app, port=int(sys.argv[1]), http="h11", log_level="warning", access_log=False, server_header=False)
"""

# Reads a stream so many times, in a process of its own: what is measured is the server, not fifty threads that wake up
# beside the clock.
READERS = """
import selectors, socket, sys

port, path, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
selector = selectors.DefaultSelector()
for _ in range(count):
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(f"GET {path} HTTP/1.1\\r\\nHost: localhost:{port}\\r\\nConnection: close\\r\\n\\r\\n".encode())
    connection.recv(65_536)
    selector.register(connection, selectors.EVENT_READ)
print("open", flush=True)
while selector.get_map():
    for key, _ in selector.select():
        if not key.fileobj.recv(65_536):
            selector.unregister(key.fileobj)
"""

# A server with a job that reports an event every two milliseconds, when it is told to.
EVENTS = """
import sys, threading, time
from pathlib import Path
from mold_core.testing import engine_with
from mold_core.engine import Job
from mold_core.jobs.job import Prepared
from mold_core.wire import DenoiseStep, GenerateRequest
from mold_http.app import create_service
from mold_http.server import listening, serve

port, count = int(sys.argv[1]), int(sys.argv[2])
with engine_with(home=Path(sys.argv[3]), port=port) as engine, listening("127.0.0.1", port) as listener:
    job = Job(Prepared(request=GenerateRequest(prompt="a")), id="job")
    engine.job = lambda id: job
    def tell():
        sys.stdin.readline()
        for step in range(count):
            job.report(DenoiseStep(step=step, total=count, elapsed_ms=1))
            time.sleep(0.002)
        job.cancel()
    threading.Thread(target=tell, daemon=True).start()
    serve(create_service(engine, engine.settings), listener, lambda: None)
"""


class Client:
    """A kept connection that asks for one path and reads the answer, as little as HTTP needs."""

    def __init__(self, port: int, path: str) -> None:
        self._request = f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode()
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self) -> float:
        """Return the seconds an answer took."""
        began = time.perf_counter()
        self._socket.sendall(self._request)
        received = self._socket.recv(65_536)
        while b"\r\n\r\n" not in received:
            received += self._socket.recv(65_536)
        head, _, body = received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        while len(body) < length:
            body += self._socket.recv(65_536)
        return time.perf_counter() - began


@contextmanager
def running(command: list[str], port: int, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """Give a server in a process of its own, when it answers, and end it."""
    with subprocess.Popen(command, **options) as process:  # type: ignore[call-overload]
        try:
            for _ in range(1200):
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def mold(home: str, port: int) -> tuple[list[str], dict[str, str]]:
    """Return command and environment of a server in `home`."""
    executable = Path(sys.executable).parent / "mold"
    return [str(executable), "serve", "--port", str(port)], {**os.environ, "MOLD_HOME": home, "MOLD_DEVICE": "cpu"}


def load(port: int) -> None:
    """Bring the model into memory, so that nothing is started any more while something is measured."""
    body = b'{"model": "flux-nano"}'
    head = f"POST /api/models/load HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


@contextmanager
def on_core(place: int) -> Iterator[None]:
    """Keep this process on one core: which cores client and server happen to share would be measured otherwise."""
    here = psutil.Process()
    here.cpu_affinity([CORES[place]])
    try:
        yield
    finally:
        here.cpu_affinity(CORES)


def measure_status(rounds: int = 60, requests: int = 40) -> None:
    """Measure an answer against a bare hello."""
    ours, theirs = free_port(), free_port()
    with tempfile.TemporaryDirectory() as home:
        command, environment = mold(home, ours)
        hello = [sys.executable, "-c", HELLO, str(theirs)]
        with running(command, ours, env=environment) as mine, running(hello, theirs) as bare_hello, on_core(-1):
            load(ours)
            for server in (mine, bare_hello):
                psutil.Process(server.pid).cpu_affinity(CORES[:1])
            clients = Client(ours, "/api/status"), Client(theirs, "/api/status")
            rows = [
                [statistics.median(client.ask() for _ in range(requests)) for client in clients]
                for _ in range(rounds + 1)
            ]
    ratio = statistics.median(status / bare for status, bare in rows[1:])
    status, bare = (1e6 * statistics.median(found) for found in zip(*rows[1:], strict=True))
    print(f"GET /api/status: {status:.0f} µs   a hello of Falcon: {bare:.0f} µs   ({rounds} rounds of {requests} each)")
    report("GET /api/status, p50 against a bare Falcon hello", ratio, 1.5, "ratio", better="lower")


def drain(port: int, path: str, opened: threading.Barrier, counts: list[int]) -> None:
    """Read a stream to its end and count its events."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n".encode())
        count = connection.recv(65_536).count(b"denoise_step")
        opened.wait()
        while chunk := connection.recv(65_536):
            count += chunk.count(b"denoise_step")
    counts.append(count)


def measure_event(count: int = 1000) -> None:
    """Measure the processor time of an event on its way to a stream."""
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-c", EVENTS, str(port), str(count), home]
        with running(command, port, stdin=subprocess.PIPE) as server:
            opened, counts = threading.Barrier(STREAMS + 1), []
            readers = [
                threading.Thread(target=drain, args=(port, "/api/jobs/job/events", opened, counts))
                for _ in range(STREAMS)
            ]
            for reader in readers:
                reader.start()
            opened.wait()
            before = psutil.Process(server.pid).cpu_times()
            assert server.stdin is not None
            server.stdin.write(b"go\n")
            server.stdin.flush()
            for reader in readers:
                reader.join()
            after = psutil.Process(server.pid).cpu_times()
    spent_s = after.user + after.system - before.user - before.system
    print(f"{sum(counts):,} events to {STREAMS} streams: {spent_s:.2f} s of processor time")
    report("an event to a stream", 1e6 * spent_s / sum(counts), 15, "µs", better="lower")


def measure_under_load(requests: int = 400) -> None:
    """Measure status while an image is computed and its events are read by many."""
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        command, environment = mold(home, port)
        with running(command, port, env=environment):
            load(port)
            body = json.dumps(
                {"kind": "generate", "request": {"prompt": "a tree", "steps": 100, "batch_size": 400}}
            ).encode()
            with socket.create_connection(("127.0.0.1", port)) as connection:
                head = f"POST /api/jobs HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
                connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                job = json.loads(connection.recv(65_536).partition(b"\r\n\r\n")[2])["id"]
            arguments = [str(port), f"/api/jobs/{job}/events", str(STREAMS)]
            with subprocess.Popen([sys.executable, "-c", READERS, *arguments], stdout=subprocess.PIPE) as readers:
                assert readers.stdout is not None and readers.stdout.readline() == b"open\n"
                client = Client(port, "/api/status")
                time.sleep(1)
                times = []
                for _ in range(requests):
                    times.append(client.ask())
                    time.sleep(0.02)
                readers.kill()
    p50, p95 = (1000 * statistics.quantiles(times, n=100)[cut - 1] for cut in (50, 95))
    print(f"GET /api/status beside a generation and {STREAMS} streams: p50 {p50:.1f} ms, p95 {p95:.1f} ms")
    report("GET /api/status, p95 while an image is computed", p95, 20, "ms", better="lower")


if __name__ == "__main__":
    measure_status()
    measure_event()
    measure_under_load()
