"""mold clean: delete what nobody needs any more."""

from __future__ import annotations

import sys
from itertools import groupby

import click

from mold_core.cli.list_models import readable_size
from mold_core.cli.output import echo, style
from mold_core.cli.state import State

__all__ = ["command"]


@click.command("clean")
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--older-than",
    "older_than_h",
    type=click.FloatRange(min=0),
    default=6.0,
    show_default=True,
    metavar="HOURS",
    help="Leave alone what was written since.",
)
@click.pass_obj
def command(state: State, dry_run: bool, yes: bool, older_than_h: float) -> None:
    """Delete unfinished downloads, markers of pulls that died, shared files that no downloaded model uses, and caches.

    What a running pull works on is left alone, and so is every file that no catalog entry describes. It is about the
    disk of this machine, also where MOLD_HOST names a server.
    """
    from mold_core.catalog.clean import delete, find_leftovers

    settings, engine = state.settings, state.local_engine
    found = find_leftovers(
        engine.plugins.models, engine.store, settings.home / "cache", older_than_s=older_than_h * 3600
    )
    if not found:
        echo("Nothing to clean.")
        return
    for kind, group in groupby(sorted(found, key=lambda leftover: leftover.kind), key=lambda leftover: leftover.kind):
        leftovers = list(group)
        size = readable_size(sum(leftover.size_bytes for leftover in leftovers))
        echo(f"{kind}: {len(leftovers)}, {size}")
        for leftover in leftovers[:10]:
            echo(f"  {readable_size(leftover.size_bytes):>9}  {leftover.path}")
        if len(leftovers) > 10:
            echo(f"  … and {len(leftovers) - 10} more")
    total = readable_size(sum(leftover.size_bytes for leftover in found))
    if dry_run:
        echo(f"{total} would be freed")
        return
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is nobody to ask; say --yes to delete without asking, or --dry-run to look")
        if not click.confirm(f"Delete {len(found)} files, {total}?", default=False, err=True):
            echo("nothing was deleted", err=True)
            return
    echo(f"{style('✓', fg='green')} {readable_size(delete(found))} freed")
