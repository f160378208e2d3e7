"""The methods of the engine for asyncio. Cancelling a task cancels its job."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mold_core.catalog import ModelEntry
from mold_core.errors import CancelledError, MoldError
from mold_core.wire import (
    ChainRequest,
    ChainResponse,
    ExpandRequest,
    ExpandResponse,
    GenerateRequest,
    GenerateResponse,
    ProgressEvent,
    Request,
    UpscaleRequest,
    UpscaleResponse,
)
from mold_core.wire.request import Result

if TYPE_CHECKING:
    from mold_core.client import Client, RemoteJob
    from mold_core.engine import Engine, Job

    AnyJob: TypeAlias = Job | RemoteJob

__all__ = ["AsyncEngine"]

OnEvent: TypeAlias = Callable[[ProgressEvent], object]

_Kind = Literal["event", "result", "error"]
_Update: TypeAlias = tuple[_Kind, Any]


class AsyncEngine:
    """Runs requests without blocking the event loop.

        async with AsyncEngine() as engine:
            first, second = await asyncio.gather(engine.generate(red), engine.generate(blue))

    `engine` is an `Engine`, or a `Client` for a server; default: a new `Engine`. Call its other methods directly, the
    slow ones in a thread. Results, events and errors are those of the engine. Cancelling a task cancels its job, and so
    does leaving a `stream` early (within ``contextlib.aclosing``).
    """

    def __init__(self, engine: Engine | Client | None = None) -> None:
        if engine is None:
            from mold_core.engine import Engine

            engine = Engine()
        self.engine = engine

    async def stream(self, request: Request[Result]) -> AsyncGenerator[ProgressEvent | Result]:
        """Yield progress events, then the response."""
        async with aclosing(self._items(request)) as items:
            async for _, item in items:
                yield item

    async def run(self, request: Request[Result], on_event: OnEvent | None = None) -> Result:
        """Return the result of a request of any kind. `on_event` is called in the event loop with every event.

        If `on_event` returns False, the job is cancelled and mold_core's CancelledError is raised.
        """
        async with aclosing(self._items(request)) as items:
            async for is_result, item in items:
                if is_result:
                    result: Result = item
                    return result
                if on_event is not None and on_event(item) is False:
                    raise CancelledError("the job was cancelled")
        raise AssertionError("a job ends with a result or an error")

    async def generate(self, request: GenerateRequest, on_event: OnEvent | None = None) -> GenerateResponse:
        """Return the images or the video of a request; see `run`."""
        return await self.run(request, on_event)

    async def chain(self, request: ChainRequest, on_event: OnEvent | None = None) -> ChainResponse:
        """Return the long video of a request; see `run`."""
        return await self.run(request, on_event)

    async def expand(self, request: ExpandRequest, on_event: OnEvent | None = None) -> ExpandResponse:
        """Return the expanded prompts of a request; see `run`."""
        return await self.run(request, on_event)

    async def upscale(self, request: UpscaleRequest, on_event: OnEvent | None = None) -> UpscaleResponse:
        """Return the upscaled image; see `run`."""
        return await self.run(request, on_event)

    async def models(self) -> list[ModelEntry]:
        """Return every model of the catalog with its state."""
        return await asyncio.to_thread(self.engine.models)

    async def load(self, name: str | None) -> str:
        """Load a model into memory; see `Engine.load`."""
        return await asyncio.to_thread(self.engine.load, name)

    async def unload(self, name: str | None = None) -> tuple[Any, ...]:
        """Unload a model, or all models; see `Engine.unload`."""
        return await asyncio.to_thread(self.engine.unload, name)

    async def pull(self, name: str) -> Any:
        """Download the missing files of a model; see `Engine.pull`."""
        return await asyncio.to_thread(self.engine.pull, name)

    async def close(self) -> None:
        """Refuse new requests, cancel running ones and unload all models."""
        await asyncio.to_thread(self.engine.close)

    async def __aenter__(self) -> AsyncEngine:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self.close())

    async def _items(self, request: Any) -> AsyncGenerator[tuple[bool, Any]]:
        """Yield (False, event) for events and (True, response) at the end. Closing the generator cancels the job."""
        updates: asyncio.Queue[_Update] = asyncio.Queue()
        job = await self._submitted(request)
        _follow(job, updates, asyncio.get_running_loop())
        kind: _Kind = "event"
        try:
            while kind == "event":
                kind, item = await updates.get()
                if kind == "error":
                    raise item
                yield kind == "result", item
        finally:
            if kind == "event":
                await asyncio.shield(asyncio.to_thread(_cancel, job))

    async def _submitted(self, request: Any) -> AnyJob:
        """Return the job of a request. If the task is cancelled during the submission, the job is cancelled too."""
        submitting: asyncio.Future[AnyJob] = asyncio.ensure_future(asyncio.to_thread(self.engine.submit, request))
        try:
            return await asyncio.shield(submitting)
        except asyncio.CancelledError:
            with suppress(MoldError):
                await asyncio.to_thread(_cancel, await submitting)
            raise


def _follow(job: AnyJob, updates: asyncio.Queue[_Update], loop: asyncio.AbstractEventLoop) -> None:
    """Put the events and the result of a job into a queue of the event loop, from a new thread."""

    def put(kind: _Kind, item: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed, so nothing waits for the item
            loop.call_soon_threadsafe(updates.put_nowait, (kind, item))

    def follow() -> None:
        try:
            for event in job.events():
                put("event", event)
            put("result", job.result())
        except BaseException as error:
            put("error", error)

    threading.Thread(target=follow, name="mold-follow", daemon=True).start()


def _cancel(job: AnyJob) -> None:
    with suppress(MoldError):  # the job is finished, or the server cannot be reached
        job.cancel()
