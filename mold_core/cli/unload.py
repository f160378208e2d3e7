"""mold unload: free the server's memory."""

from __future__ import annotations

import click

from mold_core.cli.completions import model_names
from mold_core.cli.output import echo
from mold_core.cli.server_flags import host_flag
from mold_core.cli.state import State

__all__ = ["command"]


@click.command("unload")
@click.argument("model", required=False, shell_complete=model_names)
@host_flag
@click.pass_obj
def command(state: State, model: str | None) -> None:
    """Unload MODEL, or every model, from the server's memory once running jobs have finished."""
    dropped = state.server.unload(model)
    echo(f"unloaded {', '.join(dropped)}" if dropped else "no model loaded")
