"""uvicorn's HTTP/1.1 protocol with a deadline for each request, against slow clients.

uvicorn waits forever for the rest of a request. Here a request has `PATIENCE_S` seconds to arrive, plus a second for
every `SLOWEST` received bytes: a large upload has enough time, one byte per second has not. Responses, including event
streams, have no deadline.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mold_http.guard.connections import Connections

__all__ = ["PATIENCE_S", "DeadlineProtocol", "with_limits"]

PATIENCE_S = 15.0

# The slowest accepted upload, in bytes per second.
SLOWEST = 16 * 1024

# After an early response the client may go on sending for this time, and this number of bytes per request, so that a
# reset does not destroy the response.
_LINGER_S = 5.0
_LINGER_BYTES = 65 * 1024 * 1024

# A body may arrive in this number of chunks, or in more if they have this average size: every chunk costs time.
_PIECES = 10_000
_PIECE_BYTES = 64


# Event streams send something at least every ten seconds.
_QUIET_S = 12.0


class _Pieces(h11.Connection):
    """The state of a connection; refuses bodies in tiny pieces."""

    def start_next_cycle(self) -> None:
        """Reset the counters."""
        self._pieces = self._piece_bytes = 0
        super().start_next_cycle()

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next event. Raises RemoteProtocolError for a body in too many small pieces."""
        event = super().next_event()
        if type(event) is h11.Data:
            self._pieces += 1
            self._piece_bytes += len(event.data)
            if self._pieces > _PIECES and self._piece_bytes < self._pieces * _PIECE_BYTES:
                raise h11.RemoteProtocolError("the chunks are too small")
        return event

    _pieces = 0
    _piece_bytes = 0


class _Corked:
    """A transport that sends head and body of a response at once, and batches other writes of one loop iteration.

    `close` does nothing while `stays_open` returns True.
    """

    # PERF: a second system call and a second wake-up of the client cost more than a third of a small response.

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, stays_open: Callable[[], bool]
    ) -> None:
        self._transport = transport
        self._stays_open = stays_open
        self._loop = loop
        self.taken_at = loop.time()  # when the system last accepted all written data
        self._pieces: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send at the end of the response, or later in this loop iteration."""
        if not self._pieces:
            self._loop.call_soon(self.flush)
        self._pieces.append(data)

    def close(self) -> None:
        """Close when everything is sent."""
        self.flush()
        if not self._stays_open():
            self._transport.close()

    def write_eof(self) -> None:
        """Send EOF when everything is sent."""
        self.flush()
        self._transport.write_eof()

    def flush(self) -> None:
        """Send the buffered data."""
        pieces, self._pieces = self._pieces, []
        if pieces and not self._transport.is_closing():
            self._transport.write(b"".join(pieces))
            if not self._transport.get_write_buffer_size():
                self.taken_at = self._loop.time()


class DeadlineProtocol(H11Protocol):
    """One connection. Late requests and invalid HTTP close it."""

    patience_s = PATIENCE_S
    open_connections = Connections(None)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline of the first request."""
        super().connection_made(_Corked(transport, self.loop, self._is_answered_early))  # type: ignore[arg-type]
        self.conn = _Pieces(h11.SERVER)
        self._received = 0
        self._began = self.loop.time()
        self._lingering = False
        self._clock: asyncio.TimerHandle | None = self.loop.call_later(self.patience_s, self._look)
        self.open_connections.add(self, transport.get_extra_info("socket").fileno())

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the deadline."""
        self.open_connections.discard(self)
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Process data, and start or stop the deadline as a request starts or completes."""
        if self._lingering:
            self._received += len(data)
            if self._received > _LINGER_BYTES:
                self.transport.abort()
            return
        if self._clock is None and self._is_receiving():
            self._start_clock()
        self._received += len(data)
        super().data_received(data)
        if not self._is_receiving():
            self._stop_clock()
        elif self._clock is None:
            self._start_clock()

    def on_response_complete(self) -> None:
        """Close a connection that responded before its request was complete; else wait for the next request."""
        self.transport.flush()  # type: ignore[attr-defined]  # before the remaining work of this request
        if self._is_answered_early():
            self._linger()
            return
        super().on_response_complete()
        if self._is_receiving() and self._has_begun() and self._clock is None:
            self._start_clock()

    def resume_writing(self) -> None:
        """Resume: the client has read."""
        self.transport.taken_at = self.loop.time()  # type: ignore[attr-defined]
        super().resume_writing()

    def progressed_at(self) -> float:
        """Return the time of the last progress, to find the connection that waits for nothing.

        For an incoming request it falls behind if data arrives more slowly than `SLOWEST`. An event stream may be
        silent for a while, and a request in progress waits for the server.
        """
        now, cycle = self.loop.time(), self.cycle
        if self._clock is not None:
            return min(self._began + self._received / SLOWEST, now)
        if cycle is not None and not cycle.response_started:
            return now + _QUIET_S
        taken_at: float = self.transport.taken_at  # type: ignore[attr-defined]
        return taken_at if cycle is None or cycle.response_complete else taken_at + _QUIET_S

    def give_way(self) -> None:
        """Close immediately."""
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Respond to invalid HTTP with the error envelope, unless a response has started."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        body = json.dumps({"error": "the request is not valid HTTP", "code": "BAD_REQUEST"}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        for event in (h11.Response(status_code=400, headers=headers, reason=b"Bad Request"), h11.Data(data=body)):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.write(self.conn.send(h11.EndOfMessage()) or b"")
        self.transport.close()

    def _is_answered_early(self) -> bool:
        answered = self.cycle is not None and self.cycle.response_complete
        in_body = self.conn.their_state is h11.SEND_BODY
        return answered and in_body and self._received < _LINGER_BYTES and not self.transport.is_closing()

    def _is_receiving(self) -> bool:
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def _has_begun(self) -> bool:
        return self.conn.their_state is h11.SEND_BODY or bool(self.conn.trailing_data[0])

    def _start_clock(self) -> None:
        self._received, self._began = 0, self.loop.time()
        self._clock = self.loop.call_later(self.patience_s, self._look)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _look(self) -> None:
        """Close the connection if its request is late; else check again at its deadline."""
        self._clock = None
        left_s = self._began + self.patience_s + self._received / SLOWEST - self.loop.time()
        if left_s > 0:
            self._clock = self.loop.call_later(left_s, self._look)
        elif not self.transport.is_closing():
            self.transport.abort()

    def _linger(self) -> None:
        """Send EOF, and discard input for a moment."""
        self._stop_clock()
        self._lingering = True
        self.server_state.total_requests += 1
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._clock = self.loop.call_later(_LINGER_S, self.transport.abort)


def with_limits(patience_s: float, connections: Connections) -> type[DeadlineProtocol]:
    """Return the protocol with these limits, as a class because uvicorn creates the instances."""
    about = {"patience_s": patience_s, "open_connections": connections, "__doc__": DeadlineProtocol.__doc__}
    return type("DeadlineProtocol", (DeadlineProtocol,), about)
