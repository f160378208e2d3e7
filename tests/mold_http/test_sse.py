"""Event streams: their frames, heartbeats, slow readers, clients that leave, and a server that stops."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from http_server import read_all, read_until
from inside_server import InsideServer, serving_inside

from mold_core import CancelledError, GenerateRequest
from mold_core.testing import FakePlugin, Gate, SketchFamily, sketch_model
from mold_http import sse
from mold_http.disconnect import watching
from mold_http.sse import EventStream, Feeds, QueueFeed, Source, frame

WAIT_S = 120.0


# --- frames --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "data: x\n\nevent: complete", "\u2028", "ä", "\0", "\ud800"])
def test_no_text_can_end_a_frame_and_begin_another(text: str) -> None:
    made = frame("progress", {"text": text}, 7)
    head, _, data = made.partition(b"data: ")
    assert head == b"id: 7\nevent: progress\n"
    assert len(data.splitlines()) == 2
    assert data.endswith(b"\n\n")
    assert json.loads(data) == {"text": text}


# --- one stream, without a socket ----------------------------------------------------------------------------------


class Words(Source):
    """A stream of the words that a queue is given; "end" is the last."""

    def __init__(self, feeds: Feeds) -> None:
        self.queue: QueueFeed[str] = QueueFeed(feeds)
        super().__init__(self.queue)
        self.closed = False

    async def read(self) -> list[bytes]:
        words = self.queue.take()
        self.finished = self.finished or "end" in words
        return [word.encode() for word in words]

    async def last(self) -> bytes:
        return b"last"

    def close(self) -> None:
        self.closed = True


class Client:
    """The ASGI side of a client, which leaves when `leave` is called."""

    def __init__(self) -> None:
        self._left = asyncio.Event()

    def leave(self) -> None:
        self._left.set()

    async def receive(self) -> dict[str, Any]:
        await self._left.wait()
        return {"type": "http.disconnect"}


Body = Callable[[Words, Feeds, Client, asyncio.Queue[bytes]], Awaitable[None]]


def streaming(body: Body, *, patient: bool = False) -> list[bytes]:
    """Run a stream, and beside it `body`, which is given what is sent; return all that was sent."""

    async def run() -> list[bytes]:
        feeds, client, sent = Feeds(), Client(), []
        words, chunks = Words(feeds), asyncio.Queue[bytes]()

        async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
            stream = EventStream(scope, words, feeds, patient=patient)
            async for chunk in stream:
                sent.append(chunk)
                chunks.put_nowait(chunk)
            await stream.close()

        scope = {"type": "http", "http_version": "1.1", "method": "GET"}
        task = asyncio.create_task(watching(app)(scope, client.receive, lambda message: asyncio.sleep(0)))
        async with asyncio.timeout(WAIT_S):
            await asyncio.sleep(0)
            await body(words, feeds, client, chunks)
            await task
        assert (words.closed, len(feeds)) == (True, 0)
        return sent

    return asyncio.run(run())


def test_what_threads_put_in_arrives_in_order_and_the_end_comes_last() -> None:
    async def body(words: Words, feeds: Feeds, client: Client, chunks: asyncio.Queue[bytes]) -> None:
        def put() -> None:
            for word in ("one ", "two ", "end"):
                words.queue.put(word)

        await asyncio.to_thread(put)

    assert b"".join(streaming(body)) == b"one two endlast"


def test_a_silent_stream_sends_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_S", 0.0)
    monkeypatch.setattr(sse, "_TICK_S", 0.001)
    monkeypatch.setattr(Source, "interval_s", 0.0)

    async def body(words: Words, feeds: Feeds, client: Client, chunks: asyncio.Queue[bytes]) -> None:
        assert [await chunks.get() for _ in range(3)] == [b": ping\n\n"] * 3
        words.queue.put("end")

    *pings, last = streaming(body)
    assert set(pings) <= {b": ping\n\n"}
    assert last == b"endlast"


def test_a_client_that_leaves_gets_nothing_more() -> None:
    async def body(words: Words, feeds: Feeds, client: Client, chunks: asyncio.Queue[bytes]) -> None:
        words.queue.put("one")
        assert await chunks.get() == b"one"
        client.leave()

    assert streaming(body)[0] == b"one"


@pytest.mark.parametrize("patient", [False, True])
def test_a_server_that_stops_ends_streams_that_carry_no_result_at_once(patient: bool) -> None:
    async def body(words: Words, feeds: Feeds, client: Client, chunks: asyncio.Queue[bytes]) -> None:
        words.queue.put("one")
        assert await chunks.get() == b"one"
        feeds.close(patient_too=False)
        if patient:
            words.queue.put("two")
            assert await chunks.get() == b"two"
            feeds.close(patient_too=True)

    assert streaming(body, patient=patient) == [b"one", *([b"two"] if patient else []), b"last"]


def test_a_stream_that_begins_while_the_server_stops_ends_at_once() -> None:
    async def run() -> list[bytes]:
        feeds = Feeds()
        feeds.close(patient_too=False)
        sent: list[bytes] = []

        async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
            stream = EventStream(scope, Words(feeds), feeds, patient=False)
            sent.extend([chunk async for chunk in stream])
            await stream.close()

        scope = {"type": "http", "http_version": "1.1", "method": "GET"}
        await watching(app)(scope, Client().receive, lambda message: asyncio.sleep(0))
        return sent

    assert asyncio.run(run()) == [b"last"]


def test_a_queue_keeps_the_newest_of_what_its_reader_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "_MAX_WAITING", 3)

    async def run() -> list[int]:
        queue: QueueFeed[int] = QueueFeed(Feeds())
        for number in range(10):
            queue.put(number)
        return queue.take()

    assert asyncio.run(run()) == [7, 8, 9]


# --- over real connections -----------------------------------------------------------------------------------------


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Every step waits here."""
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def server(tmp_path: Path, gate: Gate) -> Iterator[InsideServer]:
    """A server whose only model stops at the gate."""
    plugin = FakePlugin(families=[SketchFamily(gate=gate)], models=[sketch_model()])
    with serving_inside(tmp_path / "home", plugin) as running:
        yield running
        gate.open()


def begin(server: InsideServer, method: str, path: str, body: object = None) -> socket.socket:
    data = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost:{server.port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S)
    connection.sendall(head.encode() + data)
    return connection


REQUEST = {"prompt": "a red house", "model": "sketch", "steps": 3, "seed": 7}


def test_a_reader_that_reads_nothing_keeps_nobody_else_waiting(server: InsideServer, gate: Gate) -> None:
    job = server.engine.submit(GenerateRequest(**REQUEST))  # type: ignore[arg-type]
    path = f"/api/jobs/{job.id}/events"
    with begin(server, "GET", path), begin(server, "GET", path) as quick:
        gate.open()
        received = read_all(quick)
    assert b"event: complete" in received
    assert received.count(b'"denoise_step"') == 3


def test_leaving_a_stream_that_owns_its_job_cancels_it(server: InsideServer, gate: Gate) -> None:
    with begin(server, "POST", "/api/generate/stream", REQUEST) as connection:
        gate.wait_for_arrival()
        read_until(connection, b"denoise_step")
        (job,) = server.engine.jobs()
    with pytest.raises(CancelledError):
        job.result(WAIT_S)


def test_leaving_the_events_of_a_job_leaves_the_job_alone(server: InsideServer, gate: Gate) -> None:
    job = server.engine.submit(GenerateRequest(**REQUEST))  # type: ignore[arg-type]
    with begin(server, "GET", f"/api/jobs/{job.id}/events") as connection:
        gate.wait_for_arrival()
        read_until(connection, b"denoise_step")
    gate.open()
    assert job.result(WAIT_S).images


def test_a_stopping_server_lets_a_result_arrive_and_ends_what_only_reports(server: InsideServer, gate: Gate) -> None:
    with (
        begin(server, "POST", "/api/generate/stream?image_data=base64", REQUEST) as result,
        begin(server, "GET", "/api/resources/stream") as reports,
    ):
        gate.wait_for_arrival()
        read_until(reports, b"event: ")
        stop = threading.Thread(target=server.service.stop)
        stop.start()
        read_all(reports)  # which ends while the pipeline still stands at the gate
        gate.open()
        received = read_all(result)
        stop.join()
    assert b"event: complete" in received
