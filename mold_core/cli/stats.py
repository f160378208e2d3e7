"""mold stats: disk usage."""

from __future__ import annotations

import click

from mold_core.cli.output import echo, echo_json, style
from mold_core.cli.server_flags import server_flags
from mold_core.cli.state import State
from mold_core.text import readable_size

__all__ = ["command"]

_OTHERS = ("cache", "logs", "jobs", "chains", "loras")


@click.command("stats")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@server_flags
@click.pass_obj
def command(state: State, as_json: bool) -> None:
    """Show the disk space that models, results, caches, logs and jobs take, on this machine or on --host."""
    usage = state.disk.usage()
    if as_json:
        from mold_core.wire.convert import to_json

        echo_json(to_json(usage))
        return
    results = (
        f"{usage.output_images} files"
        if usage.output_dir is None
        else f"{usage.output_dir}, {usage.output_images} files"
    )
    rows = [
        ("models", usage.models_dir_bytes, usage.models_dir or ""),
        *(("", model.bytes, model.name) for model in usage.models),
        ("results", usage.output_bytes, results),
        *((name, getattr(usage, f"{name}_bytes"), "") for name in _OTHERS),
    ]
    for label, size, where in rows:
        echo(f"{style(f'{label:<8}', dim=True)} {readable_size(size):>9}  {where}".rstrip())
