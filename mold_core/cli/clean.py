"""mold clean: delete files that are no longer needed."""

from __future__ import annotations

import sys
from itertools import groupby

import click

from mold_core.cli.output import echo, style
from mold_core.cli.state import State
from mold_core.text import readable_size

__all__ = ["command"]


@click.command("clean")
@click.option("--dry-run", is_flag=True, help="Print what would be deleted, and delete nothing.")
@click.option("-y", "--yes", is_flag=True, help="Delete without confirmation.")
@click.option(
    "--older-than",
    "older_than_h",
    type=click.FloatRange(min=0),
    default=6.0,
    show_default=True,
    metavar="HOURS",
    help="Keep files modified within the last HOURS.",
)
@click.pass_obj
def command(state: State, dry_run: bool, yes: bool, older_than_h: float) -> None:
    """Delete unfinished downloads, stale download markers, shared files that no downloaded model uses, and caches.

    Files of a running download are kept, and so is every file that the catalog does not describe. The command always
    works on the disk of this machine, also when MOLD_HOST names a server.
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
            raise click.UsageError(
                "not a terminal: pass --yes to delete without confirmation, or --dry-run to list the files"
            )
        if not click.confirm(f"Delete {len(found)} files, {total}?", default=False, err=True):
            echo("Nothing was deleted.", err=True)
            return
    echo(f"{style('✓', fg='green')} {readable_size(delete(found))} freed")
