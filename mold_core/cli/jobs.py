"""mold jobs: list, show, follow and cancel the server's jobs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click

from mold_core.cli.output import echo, echo_json, style
from mold_core.cli.server_flags import host_flag
from mold_core.cli.state import State
from mold_core.jobs.kinds import JOB_KINDS

__all__ = ["command", "job_line"]

EPILOG = """\b
Examples:
  mold jobs list --state running
  mold jobs follow 3f0c9a6b12de4f77
  mold jobs cancel 3f0c9a6b12de4f77"""

_COLORS = {"done": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}


@click.group("jobs", epilog=EPILOG)
def command() -> None:
    """List, follow and cancel the server's jobs. An ID can be shortened to a unique prefix."""


@command.command("list")
@click.option(
    "--state",
    "state_filter",
    type=click.Choice(["queued", "running", "done", "failed", "cancelled"]),
    help="Only jobs in this state.",
)
@click.option("--kind", type=click.Choice(list(JOB_KINDS)), help="Only jobs of this kind.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@host_flag
@click.pass_obj
def list_(state: State, state_filter: str | None, kind: str | None, as_json: bool) -> None:
    """List the jobs that the server keeps, oldest first."""
    jobs = state.server.jobs(state=state_filter, kind=kind)
    if as_json:
        echo_json([job.about for job in jobs])
        return
    for job in jobs:
        echo(job_line(job.about))
    if not jobs:
        echo("No jobs.")


@command.command("show")
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@host_flag
@click.pass_obj
def show(state: State, id: str, as_json: bool) -> None:
    """Show the state of a job."""
    about = state.server.job(_full_id(state, id)).about
    if as_json:
        echo_json(about)
        return
    for label, value in about.items():
        if label.endswith("_at"):
            value = _when(value)
        echo(f"{style(f'{label:<12}', dim=True)} {', '.join(value) if isinstance(value, list) else value}")


@command.command("cancel")
@click.argument("id")
@host_flag
@click.pass_obj
def cancel(state: State, id: str) -> None:
    """Cancel a job. A job that has ended stays unchanged."""
    job = state.server.job(_full_id(state, id))
    job.cancel()
    echo(job_line(job.to_json()))


@command.command("follow")
@click.argument("id")
@host_flag
@click.pass_obj
def follow(state: State, id: str) -> None:
    """Show a job's progress until it ends. Ctrl-C stops following, not the job. A failed job sets the exit status."""
    from mold_core.cli.progress import ProgressLine

    job = state.server.job(_full_id(state, id))
    line = ProgressLine()
    try:
        for event in job.events():
            line(event)
    finally:
        line.clear()
    echo(job_line(job.to_json()))


def job_line(about: Mapping[str, Any]) -> str:
    """Return the description of a job in one line."""
    state = str(about["state"])
    words = f"{about['id'][:16]}  {_when(about.get('created_at'))}  {style(f'{state:<9}', fg=_COLORS.get(state))}"
    words += f"  {about['kind']:<8}  {about.get('model') or ''}"
    if about.get("position"):
        words += f"  number {about['position']} in the queue"
    return words + (f"  {about['error']}" if about.get("error") else "")


def _when(moment_ms: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime((moment_ms or 0) / 1000))


def _full_id(state: State, id: str) -> str:
    """Return the full id for a unique prefix; any other text unchanged."""
    if len(id) >= 32:
        return id
    found = [job.id for job in state.server.jobs() if job.id.startswith(id)]
    return found[0] if len(found) == 1 else id
