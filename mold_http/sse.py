"""Server-sent events: how they look, and streams that end when the client leaves or the server stops."""

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

# A comment is sent when nothing happened for so long: proxies keep the connection, and a client that left is noticed.
HEARTBEAT_S = 10.0

# Streams are looked after so often: between two wake-ups for events, and for heartbeats.
_PAUSE_S = 0.01
_TICK_S = 0.25

_PING = b": ping\n\n"

# What a reader that is slower than its events may leave unread; the oldest are dropped beyond that.
_MAX_WAITING = 10_000

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def frame(event: str, data: object, number: int | None = None) -> bytes:
    """Return one event; `number` is what a client that comes back sends as Last-Event-ID."""
    # NOTE: JSON escapes line breaks, so no text from anywhere can end the event and begin another.
    head = f"event: {event}\n" if number is None else f"id: {number}\nevent: {event}\n"
    return f"{head}data: {_encode(data)}\n\n".encode()


@lru_cache(maxsize=256)
def progress_frame(event: ProgressEvent) -> bytes:
    """Return an event of a job as the frame ``progress``; the same for all who read it, so it is made once."""
    return frame("progress", event_to_json(event))


class Feed:
    """The side of a stream that threads wake and one task of the loop waits at; made in that loop."""

    def __init__(self, feeds: Feeds) -> None:
        self._feeds = feeds
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._woken = False
        self.due = 0.0
        self.ended = False

    def wake(self) -> None:
        """Let the reader look. May be called from any thread."""
        self._feeds.ring(self)

    def look(self) -> None:
        """Let the reader look. Called in the loop's thread."""
        self._woken = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self) -> None:
        """Let the reader end. Called in the loop's thread."""
        self.ended = True
        self.look()

    async def wait(self, timeout_s: float) -> None:
        """Return when there may be something to read, when the feed ended, or a little after the time is over."""
        if not self._woken:
            self._waiter = self._loop.create_future()
            self.due = self._loop.time() + timeout_s
            await self._waiter
        self._woken = False


class Source:
    """What a stream sends. `read` returns what is new, as frames; `finished` says that no more will come.

    `read` is called when the feed was woken, and at least every `interval_s`. `last` is called once when the feed ends
    or the source is finished, unless the client left.
    """

    interval_s = HEARTBEAT_S
    ping = _PING  # sent when nothing else was for a while

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.finished = False

    async def read(self) -> list[bytes]:
        """Return the frames of all that has happened since the last call."""
        raise NotImplementedError

    async def last(self) -> bytes:
        """Return the closing frames."""
        return b""

    def close(self) -> None:
        """Let go of what is listened to."""


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
        """Return all that waits, in order."""
        return [self._waiting.popleft() for _ in range(len(self._waiting))]


class Feeds:
    """Every open stream of a server: wakes them for threads, and ends all when the server stops.

    However many streams there are and however fast events come, the loop is woken 100 times a second at most; what
    came meanwhile is sent together. So is the time: one timer serves the heartbeats of all.
    """

    def __init__(self) -> None:
        self._open: dict[Feed, bool] = {}
        self._lock = threading.Lock()
        self._rung: set[Feed] = set()
        self._ringing = False
        self._rang_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.closing = False

    def __len__(self) -> int:
        return len(self._open)

    def add(self, feed: Feed, *, patient: bool) -> None:
        """Remember a feed; a `patient` one carries a result and goes on while a stopping server lets work finish."""
        self._open[feed] = patient
        if self.closing and not patient:
            feed.end()
        if self._timer is None:
            self._tick(asyncio.get_running_loop())

    def discard(self, feed: Feed) -> None:
        """Forget a feed."""
        self._open.pop(feed, None)

    def ring(self, feed: Feed) -> None:
        """Let a feed look soon. May be called from any thread."""
        with self._lock:
            self._rung.add(feed)
            if self._ringing:
                return
            self._ringing = True
        loop = feed._loop
        with suppress(RuntimeError):  # the loop has ended, and with it all streams
            loop.call_soon_threadsafe(self._answer_bell, loop)

    def close(self, *, patient_too: bool) -> None:
        """End the feeds that only tell, and with `patient_too` those that carry results."""
        self.closing = True
        for feed, patient in tuple(self._open.items()):
            if patient_too or not patient:
                feed.end()

    def _answer_bell(self, loop: asyncio.AbstractEventLoop) -> None:
        wait_s = self._rang_at + _PAUSE_S - loop.time()
        if wait_s > 0:
            loop.call_later(wait_s, self._look, loop)
        else:
            self._look(loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            rung, self._rung, self._ringing = self._rung, set(), False
        self._rang_at = loop.time()
        for feed in rung:
            feed.look()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake the feeds whose time is over, and come again while there are any."""
        now = loop.time()
        for feed in self._open:
            if feed.due <= now:
                feed.look()
        self._timer = loop.call_later(_TICK_S, self._tick, loop) if self._open else None


class EventStream:
    """The body of an answer made of events; Falcon iterates over it, and closes it however that ends."""

    def __init__(self, scope: dict[str, Any], source: Source, feeds: Feeds, *, patient: bool) -> None:
        self._scope = scope
        self._source = source
        self._feeds = feeds
        feeds.add(source.feed, patient=patient)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        source, feed, clock = self._source, self._source.feed, asyncio.get_running_loop().time
        left = presence_of(self._scope).watch(feed.end)
        sent_at = clock()
        while not left.is_set():
            frames = await source.read()
            if feed.ended or source.finished:
                frames += await source.read()  # what came between reading and the end
                yield b"".join(frames) + await source.last()
                return
            if frames or clock() - sent_at >= HEARTBEAT_S:
                yield b"".join(frames) or source.ping
                sent_at = clock()
            await feed.wait(source.interval_s)

    async def close(self) -> None:
        """Let go of what the stream listens to."""
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
    """Make the answer an event stream. `patient`: it carries a result, for which a stopping server waits a while."""
    resp.content_type = "text/event-stream"
    resp.set_header("Cache-Control", "no-store")
    resp.set_header("X-Accel-Buffering", "no")  # nginx would keep the events back
    resp.stream = EventStream(req.scope, source, feeds, patient=patient)  # type: ignore[assignment]
