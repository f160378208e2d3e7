"""mold list: the downloaded models, and those that can be downloaded."""

from __future__ import annotations

import os
import shutil
import textwrap
from typing import TYPE_CHECKING

import click

from mold_core.cli.loras import list_loras
from mold_core.cli.output import at_terminal, echo, echo_json, style
from mold_core.cli.server_flags import server_flags
from mold_core.cli.state import State
from mold_core.errors import MoldError
from mold_core.text import readable_size

if TYPE_CHECKING:
    from mold_core.catalog import ModelDefaults, ModelEntry

__all__ = ["command", "image_size", "step_count"]

# Below this width the table would wrap; each model gets separate lines instead.
_TABLE_COLUMNS = 90


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--loras", is_flag=True, help="List LoRAs instead.")
@server_flags
@click.pass_obj
def command(state: State, as_json: bool, loras: bool) -> None:
    """List the models on this machine and those that can be downloaded."""
    if loras:
        list_loras(state, as_json=as_json)
        return
    entries = state.engine.models()
    default = _default_name(state)
    if as_json:
        echo_json([_as_json(entry, default) for entry in entries])
        return
    here = [entry for entry in entries if entry.downloaded]
    away = [entry for entry in entries if not entry.downloaded and _is_away(entry)]
    elsewhere = [entry for entry in entries if not entry.downloaded and entry not in away]
    if not entries:
        echo("No models: no loaded plugin provides any (mold plugins).")
        return
    _table("Downloaded:", here, default)
    if away:
        echo()
        _table("Not mounted:", away, default)
    if elsewhere:
        echo()
        _table("Available to download:", elsewhere, default)
    address = getattr(state.engine, "address", None)
    where = f"all on {address}" if state.settings.host and address else f"files go to {state.settings.models_path}"
    echo()
    echo(f"★ default · {where} · mold info NAME shows details")


def _is_away(entry: ModelEntry) -> bool:
    """Return whether a file of a model outside of the models folder cannot be reached."""
    return any(
        not file.repo and os.path.isabs(file.path) and not os.path.exists(file.path) for file in entry.spec.files
    )


def _default_name(state: State) -> str | None:
    try:
        return state.engine.default_model().spec.name
    except MoldError:
        return None


def _table(title: str, entries: list[ModelEntry], default: str | None) -> None:
    echo(style(title, bold=True))
    if not entries:
        echo("  none")
        return
    width = max(len(entry.spec.name) for entry in entries)
    columns = shutil.get_terminal_size().columns
    narrow = columns < _TABLE_COLUMNS and at_terminal()
    for entry in entries:
        spec = entry.spec
        star = "★" if spec.name == default else " "
        size = "embedded" if spec.embedded else readable_size(spec.size_bytes) if spec.size_bytes else "–"
        image, steps = image_size(spec.defaults), step_count(spec.defaults)
        problem = (
            "" if entry.runnable or spec.part_of else style(f"  (no plugin provides family {spec.family})", fg="yellow")
        )
        if narrow:
            about = " · ".join(filter(None, [size, image, steps, spec.description]))
            echo(f"{star} {spec.name}{problem}")
            for line in textwrap.wrap(about, columns - 1, initial_indent="  ", subsequent_indent="  "):
                echo(line)
        else:
            echo(f"{star} {spec.name:<{width}}  {size:>8}  {image:>9}  {steps:>9}  {spec.description}{problem}")


def _as_json(entry: ModelEntry, default: str | None) -> dict[str, object]:
    spec = entry.spec
    return {
        "name": spec.name,
        "family": spec.family,
        "description": spec.description,
        "licence": spec.licence,
        "downloaded": entry.downloaded,
        "embedded": spec.embedded,
        "default": spec.name == default,
        "size_bytes": spec.size_bytes,
        "width": spec.defaults.width,
        "height": spec.defaults.height,
        "steps": spec.defaults.steps,
        "guidance": spec.defaults.guidance,
    }


def image_size(defaults: ModelDefaults) -> str:
    """Return the default size, such as 128x128; empty for a model without one."""
    return f"{defaults.width}x{defaults.height}" if defaults.width and defaults.height else ""


def step_count(defaults: ModelDefaults) -> str:
    """Return the default number of steps in words; empty for a model without one."""
    return f"{defaults.steps} step{'' if defaults.steps == 1 else 's'}" if defaults.steps else ""
