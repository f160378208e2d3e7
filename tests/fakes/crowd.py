"""A crowd of clients that want nothing: idle sockets, event streams that nobody reads, requests that drip."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import attrs
from http_server import Server

__all__ = ["Crowd", "crowding", "health_times"]

_STREAMS = ("/api/resources/stream", "/api/downloads/stream")
_DRIP_S = 0.5


@attrs.frozen(kw_only=True)
class Crowd:
    """How many there are of each."""

    idle: int
    streams: int
    dripping: int


@contextmanager
def crowding(server: Server, crowd: Crowd) -> Iterator[None]:
    """Have a crowd at the door. Who is thrown out stays out."""
    over = threading.Event()
    with ExitStack() as stack:

        def opened(data: bytes = b"") -> socket.socket | None:
            with suppress(OSError):
                connection = stack.enter_context(server.connect())
                connection.sendall(data)
                return connection
            return None

        for _ in range(crowd.idle):
            opened()
        for number in range(crowd.streams):
            path = _STREAMS[number % len(_STREAMS)]
            opened(f"GET {path} HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n".encode())
        head = f"POST /api/generate HTTP/1.1\r\nHost: localhost:{server.port}\r\nContent-Length: 1000000\r\n"
        start = f"{head}Content-Type: application/json\r\n\r\n".encode()
        slow = [connection for _ in range(crowd.dripping) if (connection := opened(start)) is not None]
        dripping = threading.Thread(target=_drip, args=(slow, over))
        dripping.start()
        try:
            yield
        finally:
            over.set()
            dripping.join()


def _drip(connections: list[socket.socket], over: threading.Event) -> None:
    while not over.wait(_DRIP_S):
        for connection in connections:
            with suppress(OSError):
                connection.send(b" ")


def health_times(server: Server, count: int) -> list[float]:
    """Return how many seconds each of so many requests for /health took, each on a connection of its own."""
    times = []
    for _ in range(count):
        began = time.monotonic()
        assert server.ask("GET", "/health").status == 200
        times.append(time.monotonic() - began)
    return times
