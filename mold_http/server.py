"""Runs the app on uvicorn until SIGTERM, Ctrl-C or a shutdown request."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from mold_core.engine.worker.scheduler_slice import SHORT_S, request_scheduler_slice
from mold_core.errors import SettingsError
from mold_core.media.decoder import close_decoders
from mold_http.app import app_of
from mold_http.guard.connections import ACCEPTED_AT_ONCE, Connections, raise_descriptor_limit
from mold_http.guard.deadline import with_limits
from mold_http.service import Service

__all__ = ["serve", "warnings_for"]

log = logging.getLogger("mold.http")

# Keep-alive time; clients use about one minute too.
_KEEP_ALIVE_S = 75

# Length of the queue of connections that are not accepted yet.
_BACKLOG = 1024

# Result streams are closed this long before the grace time ends, so that clients receive an error.
_FAREWELL_S = 1.0


def serve(service: Service, listener: socket.socket, started: Callable[[], object], *more: socket.socket) -> None:
    """Serve until a signal or a shutdown request, then wait for running work until the grace time is over.

    `started` is called when the server accepts requests and handles signals. `more` are further listening sockets. A
    signal raises nothing.
    """
    settings = service.settings
    if settings.executor != "inline":
        # Models compute in other processes, so this one has short tasks, which clients wait for.
        request_scheduler_slice(SHORT_S)
    config = uvicorn.Config(
        app_of(service),
        http=with_limits(settings.request_timeout_s, Connections(raise_descriptor_limit())),
        loop="asyncio",
        # NOTE: by default uvicorn trusts X-Forwarded-For of local peers. httptools accepts headers of any size, h11 up
        # to 64 KiB. Without a timeout, uvicorn would wait forever for an open event stream when it shuts down.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        backlog=ACCEPTED_AT_ONCE,  # asyncio also uses the backlog as the number to accept in one loop iteration
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_s)),
        log_config=None,
        access_log=False,
        ws="none",
    )
    _Server(config, service, started).run(sockets=[listener, *more])


class _Server(uvicorn.Server):
    """uvicorn's server. On shutdown, streams without a result are closed first."""

    def __init__(self, config: uvicorn.Config, service: Service, started: Callable[[], object]) -> None:
        super().__init__(config)
        self._service = service
        self._started = started
        self._loop: asyncio.AbstractEventLoop | None = None
        service.stop = self.stop

    def stop(self) -> None:
        """Shut down gracefully. May be called from any thread and from signal handlers, and more than once."""
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end_feeds)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Shut down gracefully at the first signal, immediately at the second."""
        if self.should_exit:
            self.force_exit = True
            close_decoders()
        self.stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Store the event loop for signals, and call `started` when the server is ready."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)
        self._started()

    def _end_feeds(self) -> None:
        feeds = self._service.feeds
        if feeds.closing:
            return
        feeds.close(patient_too=False)
        assert self._loop is not None
        left_s = max(self._service.settings.shutdown_grace_s - _FAREWELL_S, 0)
        self._loop.call_later(left_s, lambda: feeds.close(patient_too=True))


@contextmanager
def listening(bind: str, port: int) -> Iterator[socket.socket]:
    """Yield a listening socket. Raises SettingsError if the address is in use or does not belong to this machine."""
    try:
        found = socket.getaddrinfo(bind or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        family, address = found[0], found[4]  # with the number of an IPv6 scope
        # NOTE: asyncio disables Nagle's algorithm only for sockets created as TCP. Otherwise responses of two writes
        # take 40 ms, until the client acknowledges the first.
        with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
            yield listener
    except OSError as error:
        raise SettingsError(
            f"the server cannot listen on {bind} port {port}: {error.strerror}",
            field="port",
            value=port,
            hint="another program may use the port; choose another one with --port",
        ) from None


def warnings_for(service: Service, bind: str) -> list[str]:
    """Return warnings about who can access the server."""
    from mold_http.guard.hosts import is_loopback

    if is_loopback(bind) or service.keys.required:
        return []
    return [
        f"anyone who can reach {bind} can use this server: set MOLD_API_KEY, or leave out --bind "
        "to accept only connections from this machine"
    ]
