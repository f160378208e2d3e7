"""Between the routes of the server and the MCP SDK, which is an ASGI app by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import falcon.asgi

from mold_http.disconnect import ClientDisconnected, presence_of
from mold_http.errors import NotFoundError

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

    from mold_core.engine import Engine
    from mold_core.gallery import Gallery

__all__ = ["McpBridge"]


class McpBridge:
    """Passes requests to the MCP SDK. It is imported and started with the first one."""

    def __init__(self) -> None:
        self._starting = asyncio.Lock()
        self._manager: StreamableHTTPSessionManager | None = None
        self._running: asyncio.Task[None] | None = None

    async def respond(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        body: bytes,
        *,
        engine: Engine,
        gallery: Gallery | None,
    ) -> None:
        """Respond as the SDK does to a request with this body. Raises NotFoundError if the SDK is not installed."""
        manager = await self._started(engine, gallery)
        exchange = _Exchange(manager, req.scope, body)
        head = await exchange.head()
        resp.status = head["status"]
        for name, value in head.get("headers", ()):
            resp.set_header(name.decode("latin-1"), value.decode("latin-1"))
        resp.stream = exchange  # type: ignore[assignment]

    async def close(self) -> None:
        """End every open request."""
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running

    async def _started(self, engine: Engine, gallery: Gallery | None) -> StreamableHTTPSessionManager:
        async with self._starting:
            if self._manager is None:
                manager = await asyncio.to_thread(_manager_of, engine, gallery)
                ready = asyncio.Event()
                self._running = asyncio.create_task(_run(manager, ready))
                await ready.wait()
                self._manager = manager
        return self._manager


def _manager_of(engine: Engine, gallery: Gallery | None) -> StreamableHTTPSessionManager:
    try:
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        from mold_core.mcp.server import mcp_server
        from mold_core.mcp.tools import Tools
    except ImportError:
        raise NotFoundError("MCP is not installed on this server", local_hint="pip install 'mold-core[mcp]'") from None
    server = mcp_server(Tools(engine=engine, gallery=gallery))
    # Without sessions: a client may be load-balanced or restarted, and nothing has to expire.
    return StreamableHTTPSessionManager(server, stateless=True, max_request_body_size=2**31)


async def _run(manager: StreamableHTTPSessionManager, ready: asyncio.Event) -> None:
    async with manager.run():
        ready.set()
        await asyncio.get_running_loop().create_future()  # until it is cancelled


class _Exchange:
    """One request to the SDK; iterating gives the body of its response."""

    def __init__(self, manager: StreamableHTTPSessionManager, scope: dict[str, Any], body: bytes) -> None:
        self._body: bytes | None = body
        self._left = presence_of(scope).watch()
        self._messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._run(manager, dict(scope)))
        presence_of(scope).watch(self._task.cancel)

    async def head(self) -> dict[str, Any]:
        """Return the start of the response. Raises what the SDK raises before it, and ClientDisconnected."""
        message = await self._messages.get()
        if message is None:
            if self._left.is_set():
                raise ClientDisconnected
            await self._task
            raise RuntimeError("the MCP SDK did not respond")
        return message

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self._messages.get()) is not None:
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body", False):
                return

    async def close(self) -> None:
        """Cancel the request, if it is not done."""
        self._task.cancel()

    async def _run(self, manager: StreamableHTTPSessionManager, scope: dict[str, Any]) -> None:
        try:
            await manager.handle_request(scope, self._receive, self._send)
        finally:
            self._messages.put_nowait(None)

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self._messages.put(message)
