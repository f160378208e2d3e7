"""mold gallery: list, search, show and delete results."""

from __future__ import annotations

import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mold_core.cli.output import echo, echo_json, style
from mold_core.cli.server_flags import server_flags
from mold_core.cli.state import State
from mold_core.errors import OutputError, ValidationError
from mold_core.files import write_whole
from mold_core.text import readable_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mold_core.cli.state import AnyGallery
    from mold_core.client.gallery import RemoteEntry
    from mold_core.gallery import Entry

__all__ = ["command"]

EPILOG = """\b
Examples:
  mold gallery list
  mold gallery search red house --limit 5
  mold gallery search '"red house"' --json
  mold gallery mark mold-flux-nano-bf16-1763981234567.png --favourite --tag sea
  mold gallery open mold-flux-nano-bf16-1763981234567.png"""


@click.group("gallery", epilog=EPILOG)
def command() -> None:
    """List, search, show and delete the results in the gallery (MOLD_OUTPUT_DIR).

    With MOLD_HOST or --host, work on the gallery of that server.
    """


_SELECTING = (
    click.option("--limit", type=int, default=20, show_default=True, help="Number of entries to show."),
    click.option("--cursor", help="Continue after the page that printed this cursor."),
    click.option("--tag", help="Only entries with this tag."),
    click.option("--favourites", is_flag=True, help="Only favourites."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
)


def _selecting(function: Any) -> Any:
    for option in reversed(_SELECTING):
        function = option(function)
    return function


@command.command("list", short_help="List the newest entries.")
@_selecting
@server_flags
@click.pass_obj
def list_entries(state: State, /, **selection: Any) -> None:
    """List the entries, newest first."""
    _show_page(state, None, **selection)


@command.command("search", short_help="Search by words.")
@click.argument("words", nargs=-1, required=True)
@_selecting
@server_flags
@click.pass_obj
def search(state: State, /, words: tuple[str, ...], **selection: Any) -> None:
    """Find entries whose prompt, model or tags contain all WORDS or words that start so; "in quotes" as a phrase."""
    _show_page(state, " ".join(words), **selection)


@command.command("show", short_help="Show the details of an entry.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@server_flags
@click.pass_obj
def show(state: State, name: str, as_json: bool) -> None:
    """Show how NAME was generated, and where its file is."""
    gallery = state.gallery
    entry = gallery.get(name)
    if as_json:
        echo_json({**entry.to_json(), "path": _location(gallery, entry)})
        return
    for label, value in _about(entry, gallery):
        echo(f"{style(f'{label:<15}', bold=True)} {value}")


@command.command("open", short_help="Open an entry in a viewer.")
@click.argument("name")
@server_flags
@click.pass_obj
def open_entry(state: State, name: str) -> None:
    """Open NAME in the system's default program; from a server, a local copy."""
    path = _file(state, name)
    if click.launch(path, wait=True):
        raise OutputError(f"no program on this machine opens {path!r}", value=path, hint="open it yourself")


@command.command("mark", short_help="Mark an entry as favourite, or tag it.")
@click.argument("name")
@click.option("--favourite/--no-favourite", default=None, help="Mark as favourite, or remove the mark.")
@click.option("--tag", "tags", multiple=True, help="Add a tag. Repeatable.")
@click.option("--untag", "untags", multiple=True, help="Remove a tag. Repeatable.")
@server_flags
@click.pass_obj
def mark(state: State, name: str, favourite: bool | None, tags: tuple[str, ...], untags: tuple[str, ...]) -> None:
    """Mark NAME as a favourite, and change its tags."""
    gallery = state.gallery
    away = {tag.casefold() for tag in untags}
    kept = [tag for tag in (*gallery.get(name).tags, *tags) if tag.casefold() not in away]
    entry = gallery.update(name, favourite=favourite, tags=kept)
    echo(f"{entry.filename}  {'favourite' if entry.favourite else 'no favourite'}  {', '.join(entry.tags)}".strip())


@command.command("rm", short_help="Delete entries and their files.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("-y", "--yes", is_flag=True, help="Delete without confirmation.")
@server_flags
@click.pass_obj
def remove(state: State, names: tuple[str, ...], yes: bool) -> None:
    """Delete entries together with their files."""
    gallery = state.gallery
    for name in names:
        gallery.get(name)  # all or nothing: a mistyped name raises before anything is deleted
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise ValidationError("not a terminal", field="yes", hint="pass --yes to delete without confirmation")
        click.confirm(f"Delete {len(names)} {'file' if len(names) == 1 else 'files'}?", abort=True, err=True)
    for name in names:
        gallery.delete(name)
        echo(f"deleted {name}")


def _show_page(
    state: State, q: str | None, *, limit: int, cursor: str | None, tag: str | None, favourites: bool, as_json: bool
) -> None:
    gallery = state.gallery
    page = gallery.list(q, limit, cursor, tag=tag, favourite=True if favourites else None)
    if as_json:
        echo_json({"entries": [entry.to_json() for entry in page.entries], "next": page.next})
        return
    where = state.server.address if state.settings.host and not state.local else state.settings.output_path
    nothing = "Nothing found." if q or tag or favourites else f"The gallery {where} is empty."
    _print(page.entries, page.next, nothing)


def _location(gallery: AnyGallery, entry: Entry | RemoteEntry) -> str:
    """Return where the file of an entry is: its path on this machine, or its URL on a server."""
    path = getattr(entry, "path", None)
    return gallery.url(entry.filename) if path is None else str(path)  # type: ignore[union-attr]


def _file(state: State, name: str) -> str:
    """Return the path of an entry's file; a file on a server is downloaded first."""
    gallery = state.gallery
    path: Path | None = getattr(gallery.get(name), "path", None)
    if path is None:
        path = state.settings.home / "cache" / "opened" / Path(name).name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, gallery.read(name))  # type: ignore[union-attr]
    return str(path)


def _print(entries: Sequence[Entry | RemoteEntry], more: str | None, nothing: str) -> None:
    if not entries:
        echo(nothing)
        return
    width = shutil.get_terminal_size().columns
    name_width = max(len(entry.filename) for entry in entries)
    for entry in entries:
        star = "★" if entry.favourite else " "
        line = f"{star} {entry.filename:<{name_width}}  {_when(entry):%Y-%m-%d %H:%M}  "
        prompt = " ".join(entry.metadata.prompt.split())
        columns = max(10, width - len(line))
        echo(line + (prompt if len(prompt) <= columns else f"{prompt[: columns - 1]}…"))
    if more:
        echo()
        echo(f"more: --cursor {more}")


def _about(entry: Entry | RemoteEntry, gallery: AnyGallery) -> list[tuple[str, object]]:
    metadata = entry.metadata
    rows: list[tuple[str, object]] = [
        ("prompt", metadata.prompt),
        ("negative prompt", metadata.negative_prompt),
        ("original prompt", metadata.original_prompt),
        ("model", metadata.model),
        ("seed", metadata.seed),
        ("steps", metadata.steps),
        ("guidance", metadata.guidance),
        ("size", f"{metadata.width}x{metadata.height}"),
        ("frames", metadata.frames),
        ("fps", metadata.fps),
        ("strength", metadata.strength),
        ("lora", metadata.lora),
        ("written by", f"mold {metadata.version}"),
    ]
    if entry.metadata_synthetic:
        rows = [("model", metadata.model), ("size", f"{metadata.width}x{metadata.height}")]
    rows += [
        ("file", _location(gallery, entry)),
        ("bytes", readable_size(entry.size_bytes)),
        ("time", f"{_when(entry):%Y-%m-%d %H:%M:%S}"),
        ("favourite", "yes" if entry.favourite else None),
        ("tags", ", ".join(entry.tags)),
        *((parent.relation.replace("-", " "), parent.name) for parent in entry.parents),
        *(("used for", child.filename) for child in gallery.children(entry.filename)),
    ]
    return [(label, value) for label, value in rows if value not in (None, "")]


def _when(entry: Entry | RemoteEntry) -> datetime:
    return datetime.fromtimestamp(entry.timestamp)
