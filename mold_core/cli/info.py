"""mold info: one model in detail, a weight file, or the installation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from mold_core.cli.completions import model_names
from mold_core.cli.list_models import image_size, step_count
from mold_core.cli.memory_flags import memory_flags, take_memory_flags
from mold_core.cli.options import own_rows
from mold_core.cli.output import echo, echo_json, style
from mold_core.cli.path_info import is_path, show_path
from mold_core.cli.plugin_flags import CommandWithPluginFlags, setting_flags
from mold_core.cli.server_flags import server_flags
from mold_core.cli.state import State
from mold_core.errors import MoldError
from mold_core.text import readable_size
from mold_core.version import VERSION

if TYPE_CHECKING:
    from mold_core.catalog import ModelDefaults
    from mold_core.catalog.details import MemoryDetails, ModelDetails

__all__ = ["command"]

_HOW = {
    "eager": "all components in memory",
    "sequential": "one component at a time",
    "offload": "one component at a time, streamed by blocks",
}


@click.command("info", cls=CommandWithPluginFlags, plugin_flags={"memory_strategy": setting_flags})
@click.argument("model", required=False, shell_complete=model_names)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--verify", is_flag=True, help="Check every file of MODEL against its size and checksum.")
@click.option("--memory-gb", type=float, metavar="GB", help="Memory to plan for; default: this machine's.")
@memory_flags
@server_flags
@click.pass_obj
def command(
    state: State, /, model: str | None, as_json: bool, verify: bool, memory_gb: float | None, **flags: Any
) -> None:
    """Show details of MODEL: defaults, licence, files and where they come from, and whether it fits into memory.

    MODEL may also be the path of a weight file or of a folder: show what it holds, whether mold runs it, and which
    components are missing. Without MODEL, show the installation on this machine.
    """
    state.use_flags(memory_budget_gb=memory_gb, **take_memory_flags(flags))
    if verify:
        from mold_core.cli.verify import verify_model

        if model is None:
            raise click.UsageError("--verify needs a model: mold info MODEL --verify")
        verify_model(state, model, as_json=as_json)
        return
    if model is not None and is_path(model):
        show_path(state, model, as_json=as_json)
        return
    details = None if model is None else state.disk.model(model)
    if as_json:
        from mold_core.wire.convert import to_json

        content = _installation(state) if details is None else to_json(details)
        echo_json(content)
    elif details is None:
        _rows(_installation(state))
    else:
        _model(details)


def _installation(state: State) -> dict[str, object]:
    settings = state.settings
    try:
        default = state.local_engine.default_model()
        chosen = f"{default.spec.name} ({default.reason})"
    except MoldError as error:
        chosen = f"none: {error}"
    return {
        "mold": VERSION,
        "home": settings.home,
        "models": settings.models_path,
        "config": f"{settings.config_path}{'' if settings.config_path.exists() else ' (none)'}",
        "device": settings.device,
        "default model": chosen,
        "plugins": ", ".join(info.name for info in state.plugins.infos if not info.blocked) or "none",
    }


def _model(details: ModelDetails) -> None:
    missing = sum(not file.here for file in details.files)
    size_bytes = sum({file.path: file.size_bytes for file in details.files}.values())
    rows: dict[str, object] = {
        "name": details.name,
        "about": details.description,
        "family": _family(details),
        "capabilities": ", ".join(details.abilities),
        "licence": details.licence or "not stated",
        "image": _image(details.defaults),
        "files": f"{len(details.files)}, {readable_size(size_bytes)}"
        + (" (inside the plugin)" if details.embedded else ""),
        "downloaded": f"no, {missing} missing" if missing else "yes",
    }
    _rows({name: value for name, value in rows.items() if value})
    parameters = own_rows(details.parameters)
    if parameters:
        echo()
        echo(style("Model-specific parameters: mold run -p NAME=VALUE", bold=True))
        _rows({name: f"{group}: {doc}" if group else doc for group, name, doc in parameters}, indent="  ")
    echo()
    for file in details.files:
        mark = style("✓", fg="green") if file.here else style("✗", fg="red")
        size = readable_size(file.size_bytes) if file.size_bytes else ""
        echo(f"{mark} {file.component:<15} {size:>9}  {file.path}")
        if not file.here and file.repo:
            gate = " (accept its licence on the hub first)" if file.gated else ""
            echo(f"    from {file.repo}, file {file.filename}{gate}")
    if details.memory is not None:
        echo()
        _memory(details.memory)


def _memory(memory: MemoryDetails) -> None:
    """Show the size of each component, the need of each strategy, and the strategy that would be used."""
    available = ", ".join(f"{readable_size(size_bytes)} on {device}" for device, size_bytes in memory.room.items())
    echo(style(f"Memory available: {available}", bold=True))
    for part in memory.parts:
        where = f"  on {part.device}" if len(memory.room) > 1 else ""
        weights, working = readable_size(part.size_bytes), readable_size(part.working_bytes)
        echo(f"  {part.name:<15} {weights:>9}  and {working:>8} to compute{where}  {part.file or ''}")
    for strategy, needs in memory.needs.items():
        needed = ", ".join(
            readable_size(size_bytes) + (f" on {device}" if len(memory.room) > 1 else "")
            for device, size_bytes in needs.items()
        )
        mark = style("✓", fg="green") if memory.fits[strategy] else style("✗", fg="red")
        used = "  ← used" if strategy == memory.chosen else ""
        echo(f"{mark} {strategy:<15} {needed:>9}  {_HOW[strategy]}{used}")
    if memory.problem:
        echo(style(f"Does not fit: {memory.problem}", fg="red"))


def _family(details: ModelDetails) -> str:
    if details.part_of is not None:
        return f"{details.family}, a component of {details.part_of} models"
    return details.family if details.abilities else f"{details.family} (no loaded plugin provides it)"


def _image(defaults: ModelDefaults) -> str:
    """Return the default size, steps and guidance, as far as the model has them."""
    parts = [image_size(defaults), step_count(defaults)]
    if defaults.guidance is not None:
        parts.append(f"guidance {defaults.guidance:g}")
    return ", ".join(part for part in parts if part)


def _rows(rows: Mapping[str, object], indent: str = "") -> None:
    width = max(map(len, rows))
    for label, value in rows.items():
        echo(f"{indent}{style(label.ljust(width), dim=True)}  {value}")
