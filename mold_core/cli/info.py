"""mold info: one model in detail, or the installation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mold_core.cli.completions import model_names
from mold_core.cli.list_models import picture_size, readable_size, step_count
from mold_core.cli.memory_flags import memory_flags, take_memory_flags
from mold_core.cli.state import State
from mold_core.errors import MoldError
from mold_core.version import VERSION

if TYPE_CHECKING:
    from mold_core.catalog import ModelDefaults, ModelFile, ModelSpec, ModelStore
    from mold_core.engine.memory import MemoryReport

__all__ = ["command"]

_HOW = {
    "eager": "everything in memory",
    "sequential": "one part at a time",
    "offload": "one part at a time, blocks streamed",
}


@click.command("info")
@click.argument("model", required=False, shell_complete=model_names)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--verify", is_flag=True, help="Compare every file of MODEL with its size and checksum.")
@click.option("--memory-gb", type=float, metavar="GB", help="Will it fit into so much memory? Default: this machine's.")
@memory_flags
@click.pass_obj
def command(
    state: State, /, model: str | None, as_json: bool, verify: bool, memory_gb: float | None, **flags: Any
) -> None:
    """Show MODEL: defaults, licence, where its files lie or come from, and whether it fits into memory.

    Without MODEL: this installation.
    """
    state.use_flags(memory_budget_gb=memory_gb, **take_memory_flags(flags))
    if verify:
        from mold_core.cli.verify import verify_model

        if model is None:
            raise click.UsageError("--verify needs a model: mold info MODEL --verify")
        verify_model(state, model, as_json=as_json)
        return
    if as_json:
        import json

        content = _installation(state) if model is None else _model_as_json(state, model)
        click.echo(json.dumps(content, indent=2, default=str))
    elif model is None:
        _rows(_installation(state))
    else:
        _model(state, model)


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


def _model_as_json(state: State, name: str) -> dict[str, object]:
    import attrs

    store, spec = state.local_engine.store, state.local_engine.resolve(name)
    missing = store.missing(spec)
    files = [
        {**attrs.asdict(file), "path": store.path_of(spec, file), "here": file not in missing} for file in spec.files
    ]
    memory = _memory_report(state, spec)
    if memory is not None:
        about = attrs.asdict(memory) | {"fits": {strategy: memory.fits(strategy) for strategy in memory.needs}}
        return {**attrs.asdict(spec), "downloaded": not missing, "files": files, "memory": about}
    return {**attrs.asdict(spec), "downloaded": not missing, "files": files}


def _model(state: State, name: str) -> None:
    engine = state.local_engine
    spec = engine.resolve(name)
    missing = engine.store.missing(spec)
    rows: dict[str, object] = {
        "name": spec.name,
        "about": spec.description,
        "family": _family(spec, state),
        "can do": ", ".join(engine.abilities(spec.name)),
        "licence": spec.licence or "not stated",
        "picture": _picture(spec.defaults),
        "files": f"{len(spec.files)}, {readable_size(sum(_size(engine.store, spec, file) for file in spec.files))}"
        + (" (inside the plugin)" if spec.embedded else ""),
        "here": "yes" if not missing else f"no, {len(missing)} missing",
    }
    _rows({name: value for name, value in rows.items() if value})
    click.echo()
    for file in spec.files:
        mark = click.style("✗", fg="red") if file in missing else click.style("✓", fg="green")
        size = _size(engine.store, spec, file)
        shown = readable_size(size) if size else ""
        click.echo(f"{mark} {file.component:<15} {shown:>9}  {engine.store.path_of(spec, file)}")
        if file in missing and file.repo:
            gate = " (accept its licence there first)" if file.gated else ""
            click.echo(f"    from {file.repo}, file {file.filename}{gate}")

    memory = _memory_report(state, spec)
    if memory is not None:
        click.echo()
        _memory(memory)


def _memory_report(state: State, spec: ModelSpec) -> MemoryReport | None:
    family = state.local_engine.plugins.families.get(spec.family)
    return state.local_engine.memory_report(spec.name) if hasattr(family, "parts") else None


def _memory(memory: MemoryReport) -> None:
    """Show what each part takes, what each strategy needs, and what would be done."""
    room = ", ".join(f"{readable_size(size_bytes)} on {device}" for device, size_bytes in memory.room.items())
    click.echo(click.style(f"Memory: there is room for {room}", bold=True))
    for part in memory.parts:
        file = part.files[0].name if part.files else ""
        where = f"  on {part.device}" if len(memory.room) > 1 else ""
        weights, working = readable_size(part.size_bytes), readable_size(part.working_bytes)
        click.echo(f"  {part.name:<15} {weights:>9}  and {working:>8} to compute{where}  {file}")
    for strategy, needs in memory.needs.items():
        needed = ", ".join(
            readable_size(size_bytes) + (f" on {device}" if len(memory.room) > 1 else "")
            for device, size_bytes in needs.items()
        )
        mark = click.style("✓", fg="green") if memory.fits(strategy) else click.style("✗", fg="red")
        used = "  ← used" if strategy == memory.chosen else ""
        click.echo(f"{mark} {strategy:<15} {needed:>9}  {_HOW[strategy]}{used}")
    if memory.problem:
        click.echo(click.style(f"It does not fit: {memory.problem}", fg="red"))


def _family(spec: ModelSpec, state: State) -> str:
    if spec.part_of is not None:
        return f"{spec.family}, a part of {spec.part_of} models"
    runs = bool(state.local_engine.abilities(spec.name))
    return spec.family if runs else f"{spec.family} (no loaded plugin brings it)"


def _size(store: ModelStore, spec: ModelSpec, file: ModelFile) -> int:
    """Return the size of a file, as the catalog or else the disk tells it; 0 if neither does."""
    path = store.path_of(spec, file)
    return file.size_bytes or (path.stat().st_size if path.is_file() else 0)


def _picture(defaults: ModelDefaults) -> str:
    """Return the size, steps and guidance a request gets by default, as far as there are any."""
    parts = [picture_size(defaults), step_count(defaults)]
    if defaults.guidance is not None:
        parts.append(f"guidance {defaults.guidance:g}")
    return ", ".join(part for part in parts if part)


def _rows(rows: dict[str, object]) -> None:
    width = max(map(len, rows))
    for label, value in rows.items():
        click.echo(f"{click.style(label.ljust(width), dim=True)}  {value}")
