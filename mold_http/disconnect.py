"""Detects clients that disconnect during their request.

ASGI reports a disconnect only to a receive() after the body, and Falcon calls it only for its own event streams. The
wrapper here calls it for handlers that need to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

__all__ = [
    "ODD_METHOD",
    "ODD_VERSION",
    "App",
    "ClientDisconnected",
    "Presence",
    "presence_of",
    "watching",
    "while_connected",
]

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

T = TypeVar("T")

_KEY = "mold.presence"

# Set in the scope of a request with an HTTP version that Falcon cannot handle; a guard refuses it.
ODD_VERSION = "mold.odd_version"

# Set in the scope of a request with the method by whose name Falcon routes upgrades; no middleware would see it.
ODD_METHOD = "mold.odd_method"
_FALCONS_OWN = "WEBSOCKET"


class ClientDisconnected(Exception):
    """The client has disconnected before the response."""


class Presence:
    """Whether the client of a request is still connected. Watching starts on demand, after the body was read."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._disconnected = asyncio.Event()
        self._then: list[Callable[[], object]] = []
        self._task: asyncio.Task[None] | None = None

    async def next_message(self) -> Message:
        """Return the next message of the client, for the reader of the body."""
        if self._task is None:
            return await self._receive()
        await self._disconnected.wait()
        return {"type": "http.disconnect"}

    def watch(self, then: Callable[[], object] | None = None) -> asyncio.Event:
        """Return the event that is set when the client disconnects; `then` is called too."""
        if then is not None:
            self._then.append(then)
        if self._task is None:
            self._task = asyncio.create_task(self._watch())
        return self._disconnected

    async def close(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._disconnected.set()
        for then in self._then:
            then()


def watching(app: App) -> App:
    """Return `app` with a Presence in the scope of each HTTP request."""

    async def watched(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        if scope["http_version"] not in ("1.0", "1.1"):
            scope[ODD_VERSION], scope["http_version"] = scope["http_version"], "1.1"
        if scope["method"] == _FALCONS_OWN:
            scope[ODD_METHOD], scope["method"] = scope["method"], _FALCONS_OWN.lower()
        presence = scope[_KEY] = Presence(receive)
        try:
            await app(scope, presence.next_message, send)
        finally:
            await presence.close()

    return watched


def presence_of(scope: Message) -> Presence:
    """Return the presence of the client of a request."""
    presence: Presence = scope[_KEY]
    return presence


async def while_connected(scope: Message, work: Awaitable[T]) -> T:
    """Return the result of `work`. Raises ClientDisconnected, and cancels `work`, if the client disconnects first."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(presence_of(scope).watch().wait())
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnected
    finally:
        leaving.cancel()
        task.cancel()
