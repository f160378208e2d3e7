"""Threads for requests that bring or ask for media: none of them may hold up the routes that need no decoding."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import attrs
import falcon.asgi

from mold_core.media.decoder import Cancellation, cancellable, close_decoders, warm_decoder
from mold_http.disconnect import presence_of

__all__ = ["MediaThreads", "carries_media"]

T = TypeVar("T")

_MOST = 8
# All that is decoded for a request, and the wait for a thread and a decoder before it.
_MOST_SECONDS = 9.0


class MediaThreads:
    """Runs functions that decode media. A decoder that works for a client who leaves is killed."""

    def __init__(self, seconds: float = _MOST_SECONDS) -> None:
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(_MOST, thread_name_prefix="mold-media")

    def warm(self) -> None:
        """Start a decoder beside everything else."""
        self._threads.submit(warm_decoder)

    async def run(self, req: falcon.asgi.Request, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Return what a function gives. Raises CancelledError when the client leaves before its file is decoded."""
        cancellation = Cancellation(self._seconds)
        presence_of(req.scope).watch(cancellation.cancel)

        def work() -> T:
            with cancellable(cancellation):
                return function(*arguments, **options)

        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """Kill the decoders; what waits for a thread is not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        close_decoders()


def carries_media(value: object) -> bool:
    """Return whether a request has the bytes of a file in it, however deep."""
    if isinstance(value, tuple):
        return any(map(carries_media, value))
    kind: Any = type(value)
    if attrs.has(kind):
        return any(carries_media(getattr(value, field.name)) for field in attrs.fields(kind))
    return isinstance(value, bytes)
