"""mold version: the version."""

from __future__ import annotations

import click

from mold_core.version import VERSION

__all__ = ["command"]


@click.command("version")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show the version of mold."""
    click.echo(f'{{"version": "{VERSION}"}}' if as_json else f"mold {VERSION}")
