"""POST /mcp: tools for MCP hosts, over streamable HTTP."""

from __future__ import annotations

from typing import Any

import falcon.asgi

from mold_core.errors import MalformedError
from mold_http.guard.bodies import body_of
from mold_http.guard.json_text import JsonText
from mold_http.guard.rates import count
from mold_http.responses import JSON
from mold_http.routes.route import EVENT_STREAM, ResponseSpec, Route
from mold_http.service import Service

__all__ = ["ROUTES"]

# Tools that count against the rate of generation, beside the request that counts as a read.
_GENERATING = frozenset({"generate_image", "edit_image", "upscale_image", "generate_video", "expand_prompt"})

# Arguments of tools with base64 text.
_MEDIA = frozenset({"image", "mask"})


async def mcp(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond to a message of an MCP client."""
    text = JsonText(_MEDIA)
    data = bytearray()
    async with body_of(req) as chunks:
        async for chunk in chunks:
            text.feed(chunk)
            data += chunk
    if _generates(text):
        count(service.rates, "generation", req.remote_addr)
    await service.mcp.respond(req, resp, bytes(data), engine=service.engine, gallery=service.gallery)


def _generates(text: JsonText) -> bool:
    """Return whether a message calls a tool that generates.

    Raises MalformedError for what is not JSON. The SDK reads more, such as NaN, and would call tools uncounted.
    """
    try:
        message: Any = text.parse()
    except ValueError as error:
        raise MalformedError(f"this is not JSON: {error}") from None
    if not isinstance(message, dict) or message.get("method") != "tools/call":
        return False
    params = message.get("params")
    return isinstance(params, dict) and params.get("name") in _GENERATING


_MESSAGE = {"type": "object", "description": "A message of JSON-RPC 2.0."}

ROUTES = (
    Route(
        method="POST",
        path="/mcp",
        name="mcp",
        summary="Serve tools to MCP hosts",
        doc=(
            "Streamable HTTP of the Model Context Protocol, without sessions: the body is a JSON-RPC message. Tools: "
            "generate_image, edit_image, upscale_image, generate_video, expand_prompt, list_models, job_status, "
            "cancel_job, search_gallery. Results of the gallery are resources. Calls of tools that generate count "
            "against the rate of generation. Needs the extra `mcp`; `mold mcp` serves the same on standard input and "
            "output."
        ),
        handler=mcp,
        tag="mcp",
        scheme="bearer",
        responses=(
            ResponseSpec(doc="The response.", content={JSON: _MESSAGE, EVENT_STREAM: ("message",)}),
            ResponseSpec(status=202, doc="A notification was read."),
        ),
        errors=("NOT_FOUND",),
    ),
)
