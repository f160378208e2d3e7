"""mold rm: delete models from the disk."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mold_core.cli.completions import model_names
from mold_core.cli.output import echo, style
from mold_core.cli.server_flags import server_flags
from mold_core.cli.state import State
from mold_core.errors import MoldError
from mold_core.text import readable_size, visible

if TYPE_CHECKING:
    from mold_core.catalog.details import Removal

__all__ = ["command"]

EPILOG = """\b
Examples:
  mold rm flux-dev:q4
  mold rm flux-dev:q4 flux-krea:q8 --yes"""


@click.command("rm", epilog=EPILOG)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...", shell_complete=model_names)
@click.option("-y", "--yes", is_flag=True, help="Delete without confirmation.")
@server_flags
@click.pass_obj
def command(state: State, models: tuple[str, ...], yes: bool) -> None:
    """Delete the files of MODEL, except those that another downloaded model needs.

    Files outside the models folder are never deleted; for a symbolic link only the link is.
    """
    failures = [failure for name in models if (failure := _remove(state, name, yes))]
    if failures:
        for failure in failures[:-1]:
            echo(f"{style('error:', fg='red')} {failure}", err=True)
        raise failures[-1]


def _remove(state: State, name: str, yes: bool) -> MoldError | None:
    try:
        planned = state.disk.plan_removal(name)
        if not planned.files:
            kept = planned.kept[0]
            echo(f"No file of {planned.model} is deleted: {Path(kept.path).name}: {kept.why}")
            return None
        _show(planned)
        if not yes and not _confirmed(planned):
            echo("Nothing was deleted.", err=True)
            return None
        done = state.disk.remove(planned.model)
    except MoldError as error:
        return error
    echo(f"{style('✓', fg='green')} {done.model} deleted, {readable_size(done.size_bytes)} freed")
    return None


def _confirmed(planned: Removal) -> bool:
    if not sys.stdin.isatty():
        raise click.UsageError("not a terminal: pass --yes to delete without confirmation")
    return click.confirm(f"Delete {len(planned.files)} files of {visible(planned.model)}?", default=False, err=True)


def _show(planned: Removal) -> None:
    for file in planned.files:
        echo(f"  {readable_size(file.size_bytes):>9}  {file.path}", err=True)
    for kept in planned.kept:
        echo(f"  {'kept':>9}  {kept.path}: {kept.why}", err=True)
