"""mold version: the version."""

from __future__ import annotations

import json

import attrs
import click

from mold_core.build import this_build
from mold_core.cli.output import echo
from mold_core.version import VERSION

__all__ = ["command"]


@click.command("version")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show the version of mold; with --json also the revision and its date, if known."""
    if not as_json:
        echo(f"mold {VERSION}")
        return
    known = {name: value for name, value in attrs.asdict(this_build()).items() if value is not None}
    echo(json.dumps({"version": VERSION, **known}))
