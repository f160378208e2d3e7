"""Notices clients that leave while their request is being worked on.

ASGI says so only to who asks for the next message after the body, and Falcon asks only for its own event streams. The
wrapper here asks, and sets an event that handlers can wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["Gone", "gone", "watching", "while_connected"]

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

T = TypeVar("T")

_KEY = "mold.gone"


class Gone(Exception):
    """The client left; nobody waits for the answer."""


def watching(app: App) -> App:
    """Return `app` with an asyncio.Event in each HTTP scope that is set when the client leaves."""

    async def watched(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        left = scope[_KEY] = asyncio.Event()
        watcher: asyncio.Task[None] | None = None

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            left.set()

        async def next_message() -> Message:
            nonlocal watcher
            if watcher is not None:
                await left.wait()
                return {"type": "http.disconnect"}
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                watcher = asyncio.create_task(watch())
            return message

        try:
            await app(scope, next_message, send)
        finally:
            if watcher is not None:
                watcher.cancel()
                with suppress(asyncio.CancelledError):
                    await watcher

    return watched


def gone(scope: Message) -> asyncio.Event:
    """Return the event that is set when the client of a request leaves."""
    event: asyncio.Event = scope[_KEY]
    return event


async def while_connected(scope: Message, work: Awaitable[T], timeout_s: float | None = None) -> T:
    """Return what `work` gives. Raises Gone when the client leaves first, TimeoutError after `timeout_s`.

    `work` is cancelled in both cases; a thread behind it runs on.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(gone(scope).wait())
    try:
        await asyncio.wait({task, leaving}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Gone if leaving.done() else TimeoutError
    finally:
        leaving.cancel()
        task.cancel()
