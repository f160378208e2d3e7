"""mold plugins: the installed plugins, what each provides, and which failed."""

from __future__ import annotations

import click

from mold_core.cli.output import echo, echo_json, style
from mold_core.cli.state import State

__all__ = ["command"]

_SHOWN = 4


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(state: State, as_json: bool) -> None:
    """List the plugins on this machine, what each provides, and why any failed to load."""
    infos = state.plugins.infos
    if as_json:
        import attrs

        echo_json([attrs.asdict(info) for info in infos])
        return
    if not infos:
        echo("No plugins are installed. A plugin is a package with an entry point in the group 'mold'.")
    for info in infos:
        mark = style("✗", fg="red") if info.failure else style("○" if info.blocked else "●", fg="green")
        echo(f"{mark} {info.name}" + (f" {info.version}" if info.version else "") + f"  {info.module}")
        if info.blocked:
            echo("    disabled by MOLD_PLUGINS or --no-plugins")
        for kind, names in info.provides.items():
            shown = ", ".join(names[:_SHOWN]) + (f", … ({len(names)} in all)" if len(names) > _SHOWN else "")
            echo(f"    {kind}: {shown}")
        if info.failure:
            echo(style(f"    {info.failure}", fg="red"))
