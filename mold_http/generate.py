"""POST /api/generate, and the same with its progress as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import attrs
import falcon
import falcon.asgi

from mold_core.engine import Engine, Job
from mold_core.errors import MoldError
from mold_core.media.formats import CONTENT_TYPES
from mold_core.wire import GenerateRequest, GenerateResponse, ProgressEvent
from mold_core.wire.convert import from_text
from mold_core.wire.events import event_to_json
from mold_http.disconnect import Gone, while_connected

__all__ = ["GenerateResource", "GenerateStreamResource"]

MAX_BODY_BYTES = 64 * 1024 * 1024

# A comment is sent when nothing happened for so long: proxies keep the connection, and a client that left is noticed.
_HEARTBEAT_S = 10.0


class GenerateResource:
    """POST /api/generate: the picture itself, its seed in a header."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        request = await _request(req)
        if request.batch_size != 1:
            raise falcon.HTTPUnprocessableEntity(
                description=f"batch_size {request.batch_size}: this route returns one picture; use /api/generate/stream"
            )
        job = await asyncio.to_thread(self._engine.submit, request)
        try:
            result: GenerateResponse = await while_connected(req.scope, asyncio.to_thread(job.result))
        finally:
            job.cancel()
        image = result.images[0]
        resp.data = image.data
        resp.content_type = CONTENT_TYPES[image.format]
        resp.set_header("X-Mold-Seed-Used", str(result.seed_used))
        adjusted = next((warning for warning in result.warnings if warning.startswith("dimensions adjusted")), None)
        if adjusted:
            resp.set_header("X-Mold-Dimension-Warning", adjusted)


class GenerateStreamResource:
    """POST /api/generate/stream: events ``progress``, and one ``complete`` or ``error`` at the end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        job = await asyncio.to_thread(self._engine.submit, await _request(req))
        resp.content_type = "text/event-stream"
        resp.set_header("Cache-Control", "no-store")
        resp.stream = _events(job, req.scope)


async def _request(req: falcon.asgi.Request) -> GenerateRequest:
    """Return the request in the body; it is never read beyond the limit."""
    if (req.content_length or 0) > MAX_BODY_BYTES:
        raise _too_large()
    body = bytearray()
    async for chunk in req.stream:
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
    return await asyncio.to_thread(from_text, GenerateRequest, bytes(body))


def _too_large() -> falcon.HTTPContentTooLarge:
    return falcon.HTTPContentTooLarge(description=f"the body may hold {MAX_BODY_BYTES:,} bytes")


async def _events(job: Job, scope: dict[str, Any]) -> AsyncIterator[bytes]:
    """Yield the job's events as they come; a client that leaves cancels the job."""
    queue: asyncio.Queue[ProgressEvent | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read() -> None:
        for event in job.events():
            loop.call_soon_threadsafe(queue.put_nowait, event)
        loop.call_soon_threadsafe(queue.put_nowait, None)

    reader = asyncio.create_task(asyncio.to_thread(read))
    try:
        while True:
            try:
                event = await while_connected(scope, queue.get(), _HEARTBEAT_S)
            except TimeoutError:
                yield b": ping\n\n"
                continue
            except Gone:
                return
            if event is None:
                break
            yield _frame("progress", event_to_json(event))
        await reader
        yield _last(job)
    finally:
        job.cancel()


def _last(job: Job) -> bytes:
    try:
        return _frame("complete", _complete(job.result()))
    except MoldError as error:
        return _frame("error", {"message": str(error), "code": error.code})


def _complete(response: GenerateResponse) -> dict[str, Any]:
    images = [{**attrs.asdict(image), "data": list(image.data)} for image in response.images]
    return {
        "images": images,
        "generation_time_ms": response.generation_time_ms,
        "model": response.model,
        "seed_used": response.seed_used,
    }


def _frame(event: str, data: dict[str, Any]) -> bytes:
    return f"event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
