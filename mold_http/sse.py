"""Server-sent events: their format, and streams that end when the client disconnects or the server stops."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import lru_cache
from typing import Any, Generic, TypeVar

import falcon.asgi

from mold_core.wire import ProgressEvent
from mold_core.wire.events import event_to_json
from mold_http.disconnect import presence_of

__all__ = ["EventStream", "Feed", "Feeds", "QueueFeed", "Source", "frame", "progress_frame", "send_events"]

T = TypeVar("T")

# A comment is sent after this time without events, so that proxies keep the connection and disconnects are detected.
HEARTBEAT_S = 10.0

# Minimum time between two wake-ups for events, and interval of the check for heartbeats.
_PAUSE_S = 0.01
_TICK_S = 0.25

_PING = b": ping\n\n"

# Maximum number of unread events of a slow reader; beyond it the oldest are dropped.
_MAX_WAITING = 10_000

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def frame(event: str, data: object, number: int | None = None) -> bytes:
    """Return one event as bytes. A reconnecting client sends `number` as Last-Event-ID."""
    # NOTE: JSON escapes line breaks, so no text can end the event and start another.
    head = f"event: {event}\n" if number is None else f"id: {number}\nevent: {event}\n"
    return f"{head}data: {_encode(data)}\n\n".encode()


@lru_cache(maxsize=256)
def progress_frame(event: ProgressEvent) -> bytes:
    """Return an event of a job as a ``progress`` frame. It is cached for all readers of the job."""
    return frame("progress", event_to_json(event))


class Feed:
    """Lets threads wake the task of the event loop that sends a stream. It must be created in that loop."""

    def __init__(self, feeds: Feeds) -> None:
        self._feeds = feeds
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._woken = False
        self.due = 0.0
        self.ended = False

    def wake(self) -> None:
        """Wake the reader soon. May be called from any thread."""
        self._feeds.schedule(self)

    def wake_now(self) -> None:
        """Wake the reader. Must be called in the thread of the loop."""
        self._woken = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self) -> None:
        """End the stream. Must be called in the thread of the loop."""
        self.ended = True
        self.wake_now()

    async def wait(self, timeout_s: float) -> None:
        """Return when there may be something to read, when the feed has ended, or shortly after the timeout."""
        if not self._woken:
            self._waiter = self._loop.create_future()
            self.due = self._loop.time() + timeout_s
            await self._waiter
        self._woken = False


class Source:
    """The content of a stream. `read` returns new frames; `finished` means that there will be no more.

    `read` is called when the feed is woken, and at least every `interval_s`. `last` is called once when the feed ends
    or the source is finished, unless the client has disconnected.
    """

    interval_s = HEARTBEAT_S
    ping = _PING  # sent when nothing else was for a while

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.finished = False

    async def read(self) -> list[bytes]:
        """Return the frames since the last call."""
        raise NotImplementedError

    async def last(self) -> bytes:
        """Return the closing frames."""
        return b""

    def close(self) -> None:
        """Stop listening to events."""


class QueueFeed(Feed, Generic[T]):
    """A feed that carries items from threads to its reader."""

    def __init__(self, feeds: Feeds) -> None:
        super().__init__(feeds)
        self._waiting: deque[T] = deque(maxlen=_MAX_WAITING)

    def put(self, item: T) -> None:
        """Add an item. May be called from any thread."""
        self._waiting.append(item)
        self.wake()

    def take(self) -> list[T]:
        """Remove and return all waiting items, in order."""
        return [self._waiting.popleft() for _ in range(len(self._waiting))]


class Feeds:
    """All open streams of a server: wakes them for threads, and ends them when the server stops.

    Regardless of the number of streams and events, the loop is woken at most 100 times a second, and all events since
    then are sent together. One timer serves the heartbeats of all streams.
    """

    def __init__(self) -> None:
        self._open: dict[Feed, bool] = {}
        self._lock = threading.Lock()
        self._scheduled: set[Feed] = set()
        self._is_scheduled = False
        self._woken_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.closing = False

    def __len__(self) -> int:
        return len(self._open)

    def add(self, feed: Feed, *, patient: bool) -> None:
        """Add a feed. A `patient` one carries a result, and continues while a stopping server finishes its work."""
        self._open[feed] = patient
        if self.closing and not patient:
            feed.end()
        if self._timer is None:
            self._tick(asyncio.get_running_loop())

    def discard(self, feed: Feed) -> None:
        """Remove a feed."""
        self._open.pop(feed, None)

    def schedule(self, feed: Feed) -> None:
        """Wake a feed soon. May be called from any thread."""
        with self._lock:
            self._scheduled.add(feed)
            if self._is_scheduled:
                return
            self._is_scheduled = True
        loop = feed._loop
        with suppress(RuntimeError):  # the loop is closed, and with it all streams
            loop.call_soon_threadsafe(self._wake_or_delay, loop)

    def close(self, *, patient_too: bool) -> None:
        """End the feeds without results, and with `patient_too` all feeds."""
        self.closing = True
        for feed, patient in tuple(self._open.items()):
            if patient_too or not patient:
                feed.end()

    def _wake_or_delay(self, loop: asyncio.AbstractEventLoop) -> None:
        wait_s = self._woken_at + _PAUSE_S - loop.time()
        if wait_s > 0:
            loop.call_later(wait_s, self._wake_scheduled, loop)
        else:
            self._wake_scheduled(loop)

    def _wake_scheduled(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            scheduled, self._scheduled, self._is_scheduled = self._scheduled, set(), False
        self._woken_at = loop.time()
        for feed in scheduled:
            feed.wake_now()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake the feeds whose timeout is over, and repeat while feeds are open."""
        now = loop.time()
        for feed in self._open:
            if feed.due <= now:
                feed.wake_now()
        self._timer = loop.call_later(_TICK_S, self._tick, loop) if self._open else None


class EventStream:
    """The body of a response with events. Falcon iterates over it, and closes it in any case."""

    def __init__(self, scope: dict[str, Any], source: Source, feeds: Feeds, *, patient: bool) -> None:
        self._scope = scope
        self._source = source
        self._feeds = feeds
        feeds.add(source.feed, patient=patient)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        source, feed, clock = self._source, self._source.feed, asyncio.get_running_loop().time
        disconnected = presence_of(self._scope).watch(feed.end)
        sent_at = clock()
        while not disconnected.is_set():
            frames = await source.read()
            if feed.ended or source.finished:
                frames += await source.read()  # events between the last read and the end
                yield b"".join(frames) + await source.last()
                return
            if frames or clock() - sent_at >= HEARTBEAT_S:
                yield b"".join(frames) or source.ping
                sent_at = clock()
            await feed.wait(source.interval_s)

    async def close(self) -> None:
        """Stop listening to events."""
        self._feeds.discard(self._source.feed)
        self._source.close()


def send_events(
    req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    feeds: Feeds,
    source: Source,
    *,
    patient: bool = False,
) -> None:
    """Respond with an event stream. `patient`: it carries a result, which a stopping server waits for."""
    resp.content_type = "text/event-stream"
    resp.set_header("Cache-Control", "no-store")
    resp.set_header("X-Accel-Buffering", "no")  # otherwise nginx delays the events
    resp.stream = EventStream(req.scope, source, feeds, patient=patient)  # type: ignore[assignment]
