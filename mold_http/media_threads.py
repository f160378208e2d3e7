"""Threads for requests with media, so that they cannot delay routes that decode nothing."""

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
# Time limit for all decoding of a request, including the wait for a thread and a decoder.
_MOST_SECONDS = 9.0


class MediaThreads:
    """Runs functions that decode media. A decoder is killed when its client disconnects."""

    def __init__(self, seconds: float = _MOST_SECONDS) -> None:
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(_MOST, thread_name_prefix="mold-media")

    def warm(self) -> None:
        """Start a decoder in the background."""
        self._threads.submit(warm_decoder)

    async def run(self, req: falcon.asgi.Request, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Return the result of a function. Raises CancelledError if the client disconnects before it is decoded."""
        cancellation = Cancellation(self._seconds)
        presence_of(req.scope).watch(cancellation.cancel)

        def work() -> T:
            with cancellable(cancellation):
                return function(*arguments, **options)

        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """Kill the decoders, and start no more work."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        close_decoders()


def carries_media(value: object) -> bool:
    """Return whether a request contains the bytes of a file at any depth."""
    if isinstance(value, tuple):
        return any(map(carries_media, value))
    kind: Any = type(value)
    if attrs.has(kind):
        return any(carries_media(getattr(value, field.name)) for field in attrs.fields(kind))
    return isinstance(value, bytes)
