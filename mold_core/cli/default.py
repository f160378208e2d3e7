"""mold default: show or set the default model."""

from __future__ import annotations

import os

import click

from mold_core.cli.completions import model_names
from mold_core.cli.output import echo, style
from mold_core.cli.state import State
from mold_core.config_file import change_key

__all__ = ["command"]


@click.command("default")
@click.argument("model", required=False, shell_complete=model_names)
@click.pass_obj
def command(state: State, model: str | None) -> None:
    """Show the default model and the reason for it, or set MODEL as the default in config.toml.

    This is the default of this machine; a server has its own (mold list --host).
    """
    engine = state.local_engine
    if model is None:
        chosen = engine.default_model()
        reason = state.settings.sources.get("default_model", "setting") if chosen.reason == "setting" else chosen.reason
        echo(f"{chosen.spec.name}  ({reason})")
        return
    spec = engine.resolve(model)
    engine.family_of(spec)  # raises for a model that generates no images
    change_key(state.settings.config_path, "default_model", spec.name)
    if os.environ.get("MOLD_DEFAULT_MODEL"):
        note = style("note:", fg="yellow")
        echo(f"{note} the environment variable MOLD_DEFAULT_MODEL overrides config.toml", err=True)
    if engine.store.missing(spec):
        echo(f"{style('note:', fg='yellow')} not downloaded yet: mold pull {spec.name}", err=True)
    echo(spec.name)
