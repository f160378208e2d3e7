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

# Keep-alive time; clients use about a minute too.
_KEEP_ALIVE_S = 75

# Connections that may wait to be accepted.
_WAITING = 1024

# Waiting clients are notified before the grace time ends.
_FAREWELL_S = 1.0


def serve(service: Service, listener: socket.socket, started: Callable[[], object], *more: socket.socket) -> None:
    """Serve until the process is told to end; then let work under way finish within the grace time.

    `started` is called when requests are answered and signals are heard. `more` are further sockets that listen.

    Nothing is raised for the signal: a server that was asked to end has done so.
    """
    settings = service.settings
    if settings.executor != "inline":
        request_scheduler_slice(
            SHORT_S
        )  # there is little to do here, and clients wait for it, while models compute elsewhere
    config = uvicorn.Config(
        app_of(service),
        http=with_limits(settings.request_timeout_s, Connections(raise_descriptor_limit())),
        loop="asyncio",
        # NOTE: uvicorn trusts X-Forwarded-For of local peers unless told not to. httptools takes headers of any size;
        # h11 stops at 64 KiB. With an open event stream uvicorn would wait for ever when it is told to end.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        backlog=ACCEPTED_AT_ONCE,  # asyncio takes the length of the system's queue for what to accept in one turn
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_s)),
        log_config=None,
        access_log=False,
        ws="none",
    )
    _Server(config, service, started).run(sockets=[listener, *more])


class _Server(uvicorn.Server):
    """uvicorn's server; when it is told to end, streams that only tell end first."""

    def __init__(self, config: uvicorn.Config, service: Service, started: Callable[[], object]) -> None:
        super().__init__(config)
        self._service = service
        self._started = started
        self._loop: asyncio.AbstractEventLoop | None = None
        service.stop = self.stop

    def stop(self) -> None:
        """End gracefully. May be called from any thread and from signal handlers, and more than once."""
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end_feeds)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End gracefully at the first signal, at once at the second."""
        if self.should_exit:
            self.force_exit = True
            close_decoders()
        self.stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Remember the loop, for signals, and say when all is ready."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_WAITING)
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
    """Give a socket that listens. Raises SettingsError when the address is taken or none of this machine's."""
    try:
        found = socket.getaddrinfo(bind or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        family, address = found[0], found[4]  # which has the number of an IPv6 scope
        # NOTE: asyncio turns Nagle's algorithm off for sockets that say they are TCP; without that, answers of two
        # writes take 40 ms, until the client acknowledges the first.
        with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_WAITING)
            listener.setblocking(False)
            yield listener
    except OSError as error:
        raise SettingsError(
            f"the server cannot listen on {bind} port {port}: {error.strerror}",
            field="port",
            value=port,
            hint="another server may run there; --port takes another",
        ) from None


def warnings_for(service: Service, bind: str) -> list[str]:
    """Return what the person who starts the server should know about who can reach it."""
    from mold_http.guard.hosts import is_loopback

    if is_loopback(bind) or service.keys.required:
        return []
    return [
        f"everybody who can reach {bind} may use this server: set MOLD_API_KEY, or leave --bind out "
        "to listen on this machine only"
    ]
