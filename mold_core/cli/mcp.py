"""mold mcp: tools for MCP hosts, on standard input and output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mold_core.cli.output import result_descriptor
from mold_core.cli.server_flags import server_flags
from mold_core.cli.state import State
from mold_core.errors import PluginError

if TYPE_CHECKING:
    from mold_core.mcp.tools import Tools

__all__ = ["command"]

EPILOG = """\b
Examples:
  mold mcp
  mold mcp --host gpu-box"""


@click.command("mcp", epilog=EPILOG)
@server_flags
@click.pass_obj
def command(state: State) -> None:
    """Serve MCP on standard input and output, for a host that starts this command.

    Uses the server that --host names or that runs on this machine, or else generates in this process. A server offers
    the same tools at /mcp.
    """
    try:
        import anyio

        from mold_core.mcp.server import serve_stdio
    except ImportError as error:
        raise PluginError("MCP needs the package mcp", hint="pip install 'mold-core[mcp]'") from error
    tools = _tools(state)
    with tools.engine:
        anyio.run(serve_stdio, tools, result_descriptor())


def _tools(state: State) -> Tools:
    from mold_core.engine import Engine
    from mold_core.gallery import Gallery
    from mold_core.mcp.tools import Tools

    engine = state.engine
    if not isinstance(engine, Engine):
        return Tools(engine=engine, gallery=engine.gallery, local_files=True)
    gallery = Gallery.of(state.settings)
    return Tools(engine=Engine(state.settings, state.plugins, gallery=gallery), gallery=gallery, local_files=True)
