"""mold info: one model in detail, or the installation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mold_core.cli.list_models import readable_size
from mold_core.cli.state import State
from mold_core.errors import MoldError
from mold_core.version import VERSION

if TYPE_CHECKING:
    from mold_core.catalog import ModelDefaults

__all__ = ["command"]


@click.command("info", short_help="Show a model, or this installation.")
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(state: State, model: str | None, as_json: bool) -> None:
    """Show MODEL: defaults, licence, and where its files lie or come from. Without MODEL: this installation."""
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
        default = state.engine.default_model()
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

    store, spec = state.engine.store, state.engine.resolve(name)
    missing = store.missing(spec)
    files = [
        {**attrs.asdict(file), "path": store.path_of(spec, file), "here": file not in missing} for file in spec.files
    ]
    return {**attrs.asdict(spec), "downloaded": not missing, "files": files}


def _model(state: State, name: str) -> None:
    engine = state.engine
    spec = engine.resolve(name)
    family = engine.plugins.families.get(spec.family)
    missing = engine.store.missing(spec)
    _rows(
        {
            "name": spec.name,
            "about": spec.description,
            "family": f"{spec.family}{'' if family else ' (no loaded plugin brings it)'}",
            "can do": ", ".join(sorted(family.capabilities)) if family else "?",
            "licence": spec.licence or "not stated",
            "picture": _picture(spec.defaults),
            "files": f"{len(spec.files)}, {readable_size(spec.size_bytes)}"
            + (" (inside the plugin)" if spec.embedded else ""),
            "here": "yes" if not missing else f"no, {len(missing)} missing",
        }
    )
    click.echo()
    for file in spec.files:
        mark = click.style("✗", fg="red") if file in missing else click.style("✓", fg="green")
        size = readable_size(file.size_bytes) if file.size_bytes else ""
        click.echo(f"{mark} {file.component:<15} {size:>9}  {engine.store.path_of(spec, file)}")
        if file in missing and file.repo:
            gate = " (accept its licence there first)" if file.gated else ""
            click.echo(f"    from {file.repo}, file {file.filename}{gate}")


def _picture(defaults: ModelDefaults) -> str:
    steps = f"{defaults.steps} steps" if defaults.steps != 1 else "1 step"
    guidance = "" if defaults.guidance is None else f", guidance {defaults.guidance:g}"
    return f"{defaults.width or '?'}x{defaults.height or '?'}, {steps}{guidance}"


def _rows(rows: dict[str, object]) -> None:
    width = max(map(len, rows))
    for label, value in rows.items():
        click.echo(f"{click.style(label.ljust(width), dim=True)}  {value}")
