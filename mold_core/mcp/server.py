"""The MCP server: tools and resources, for whatever transport."""

from __future__ import annotations

import base64
import inspect
import logging
import os
from typing import Any

import anyio
import anyio.to_thread
from mcp import MCPError
from mcp import types as mcp_types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server

from mold_core.errors import MoldError
from mold_core.mcp.content import GALLERY, media_type, text
from mold_core.mcp.tools import TOOLS, Tools, read_result
from mold_core.version import VERSION
from mold_core.wire.convert import from_json
from mold_core.wire.schema import type_schema

__all__ = ["mcp_server", "serve_stdio"]

log = logging.getLogger("mold.mcp")

# Results of the gallery that are listed as resources; search_gallery finds the others.
_LISTED = 50
_INVALID_PARAMS = -32602

_INSTRUCTIONS = (
    "Generates, edits and upscales images and generates videos on the user's machine. Images are returned as content, "
    "files as links to resources mold://gallery/NAME; the NAME of one can be the image of another call."
)

Context = ServerRequestContext[Any, Any]


def mcp_server(tools: Tools) -> Server[Any]:
    """Return the server around the tools."""
    handlers = _Handlers(tools)
    return Server(
        "mold",
        version=VERSION,
        instructions=_INSTRUCTIONS,
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
        on_list_resources=handlers.list_resources,
        on_list_resource_templates=handlers.list_templates,
        on_read_resource=handlers.read_resource,
    )


async def serve_stdio(tools: Tools, descriptor: int) -> None:
    """Serve the tools on standard input and the file descriptor of the output until the input ends."""
    from mcp import stdio_server

    server = mcp_server(tools)
    output = anyio.wrap_file(open(os.dup(descriptor), "w", encoding="utf-8"))  # noqa: SIM115
    async with output, stdio_server(stdout=output) as (read, write):
        await server.run(read, write, server.create_initialization_options())


class _Handlers:
    """What the server responds to each method."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def list_tools(
        self, context: Context, params: mcp_types.PaginatedRequestParams | None
    ) -> mcp_types.ListToolsResult:
        """Return the tools with the schemas of their arguments."""
        return mcp_types.ListToolsResult(tools=[_tool(name, cls) for name, cls in TOOLS.items()])

    async def call_tool(self, context: Context, params: mcp_types.CallToolRequestParams) -> mcp_types.CallToolResult:
        """Return what a tool returns, or its error in words."""
        cls = TOOLS.get(params.name)
        if cls is None:
            raise MCPError(code=_INVALID_PARAMS, message=f"unknown tool {params.name[:100]!r}")
        try:
            asked: Any = from_json(cls, params.arguments or {})
            content = await getattr(self._tools, params.name)(asked, context.session.report_progress)
            return mcp_types.CallToolResult(content=content)
        except MoldError as error:
            log.info("tool %s failed: %s", params.name, error)
            return mcp_types.CallToolResult(content=[text(error.public_text)], is_error=True)
        except Exception:
            log.exception("tool %s failed", params.name)
            return mcp_types.CallToolResult(content=[text("unexpected error; the log has details")], is_error=True)

    async def list_resources(
        self, context: Context, params: mcp_types.PaginatedRequestParams | None
    ) -> mcp_types.ListResourcesResult:
        """Return the newest results of the gallery."""
        gallery = self._tools.gallery
        if gallery is None:
            return mcp_types.ListResourcesResult(resources=[])
        page: Any = await anyio.to_thread.run_sync(gallery.list, None, _LISTED)
        return mcp_types.ListResourcesResult(
            resources=[
                mcp_types.Resource(
                    name=entry.filename,
                    uri=f"{GALLERY}{entry.filename}",
                    description=entry.metadata.prompt[:200],
                    mime_type=media_type(entry.filename),
                )
                for entry in page.entries
            ]
        )

    async def list_templates(
        self, context: Context, params: mcp_types.PaginatedRequestParams | None
    ) -> mcp_types.ListResourceTemplatesResult:
        """Return the form of the addresses of results."""
        template = mcp_types.ResourceTemplate(
            name="gallery", uri_template=f"{GALLERY}{{name}}", description="The file of a result."
        )
        return mcp_types.ListResourceTemplatesResult(resource_templates=[template])

    async def read_resource(
        self, context: Context, params: mcp_types.ReadResourceRequestParams
    ) -> mcp_types.ReadResourceResult:
        """Return the file of a result."""
        uri, gallery = str(params.uri), self._tools.gallery
        name = uri.removeprefix(GALLERY)
        if gallery is None or name == uri:
            raise MCPError(code=_INVALID_PARAMS, message=f"there is no resource {uri[:200]}")
        try:
            data = await anyio.to_thread.run_sync(read_result, gallery, name)
        except MoldError as error:
            raise MCPError(code=_INVALID_PARAMS, message=error.public_text) from None
        blob = base64.b64encode(data).decode()
        contents = mcp_types.BlobResourceContents(uri=params.uri, blob=blob, mime_type=media_type(name))
        return mcp_types.ReadResourceResult(contents=[contents])


def _tool(name: str, cls: type) -> mcp_types.Tool:
    schema = type_schema(cls, inline=True)
    description = {"job_status": "Report the state of a job.", "cancel_job": "Cancel a job."}.get(
        name, inspect.cleandoc(cls.__doc__ or "")
    )
    return mcp_types.Tool(name=name, description=description, input_schema=schema)
