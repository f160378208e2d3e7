"""mold ps: what the server is doing."""

from __future__ import annotations

import click

from mold_core.cli.output import echo, echo_json, style
from mold_core.cli.server import status_rows
from mold_core.cli.server_flags import host_flag
from mold_core.cli.state import State
from mold_core.errors import UnreachableError

__all__ = ["command"]


@click.command("ps")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@host_flag
@click.pass_obj
def command(state: State, as_json: bool) -> None:
    """Show the models in the server's memory and its running and waiting jobs. No server is not an error."""
    from mold_core.cli.jobs import job_line
    from mold_core.wire.convert import to_json

    try:
        client = state.server
        now = client.status()
    except UnreachableError as error:
        echo("{}" if as_json else str(error))
        return
    jobs = [*client.jobs(state="running"), *client.jobs(state="queued")]
    if as_json:
        content = {"address": client.address, **to_json(now), "jobs": [job.about for job in jobs]}
        echo_json(content)
        return
    for label, value in {"address": client.address, **status_rows(now)}.items():
        echo(f"{style(f'{label:<9}', dim=True)} {value}")
    if jobs:
        echo()
    for job in jobs:
        echo(job_line(job.about))
