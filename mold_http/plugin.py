"""The plugin that adds the command `mold serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mold_core import hookimpl

if TYPE_CHECKING:
    import click

__all__ = ["mold_commands"]


@hookimpl
def mold_commands(cli: click.Group) -> None:
    """Add `mold serve`."""
    from mold_http.command import serve

    cli.add_command(serve)
