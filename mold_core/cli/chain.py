"""mold chain: long videos from scripts; resume those that were stopped."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from mold_core.cli.output import echo, echo_json
from mold_core.cli.server_flags import server_flags
from mold_core.cli.state import State
from mold_core.cli.targets import Target
from mold_core.errors import UnknownModelError

if TYPE_CHECKING:
    from mold_core.chains import ChainPlan
    from mold_core.wire import ChainRequest

__all__ = ["command", "describe", "run_chain", "run_script"]

EPILOG = """\b
Examples:
  mold chain validate video.toml
  mold chain run video.toml -o video.mp4
  mold chain list
  mold chain resume 3f0c9a6b12de4f77"""


@click.group("chain", epilog=EPILOG)
def command() -> None:
    """Generate a long video from a TOML script, as a chain of clips that each continue the one before.

    Finished clips are kept for a while: a chain that was stopped or failed can be resumed.
    """


@command.command("validate")
@click.argument("script", type=click.Path(path_type=Path))
@click.pass_obj
def validate(state: State, script: Path) -> None:
    """Check a script and print its plan."""
    from mold_core.chains import read_script

    echo(f"OK — {describe(_plan(state, read_script(script)))}")


@command.command("run")
@click.argument("script", type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="PATH", help="Output file; '-' writes to standard output.")
@click.option("--seed", type=int, help="Random seed, in place of the script's.")
@click.option("--dry-run", is_flag=True, help="Print the plan without generating.")
@server_flags
@click.pass_obj
def run(state: State, script: Path, output: str | None, seed: int | None, dry_run: bool) -> None:
    """Generate the video that a script describes."""
    run_script(state, script, output, seed=seed, dry_run=dry_run)


@command.command("resume")
@click.argument("id")
@click.option("-o", "--output", metavar="PATH", help="Output file; '-' writes to standard output.")
@server_flags
@click.pass_obj
def resume(state: State, id: str, output: str | None) -> None:
    """Resume the chain ID (see mold chain list) after its last finished clip, on the machine that keeps its clips."""
    request = state.disk.chain(id)
    if not state.settings.host:
        state.local = True
    run_chain(state, request, output)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@server_flags
@click.pass_obj
def list_(state: State, as_json: bool) -> None:
    """List the chains that can be resumed, newest first."""

    chains = state.disk.chains()
    if as_json:
        echo_json([attrs.asdict(chain) for chain in chains])
        return
    for chain in chains:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(chain.saved_at))
        echo(f"{chain.id}  {when}  {chain.model}  {chain.prompt[:60]}")
    if not chains:
        echo("No chain can be resumed.", err=True)


def run_script(state: State, script: Path, output: str | None, *, seed: int | None, dry_run: bool) -> None:
    """Generate the video that a script describes, or print its plan."""
    from mold_core.chains import read_script

    request = read_script(script)
    if seed is not None:
        request = attrs.evolve(request, seed=seed)
    if dry_run:
        echo(describe(_plan(state, request)))
    else:
        run_chain(state, request, output)


def run_chain(state: State, request: ChainRequest, output: str | None) -> None:
    """Generate a chain and write its video to `output`, which is checked before anything is generated."""
    target = Target.choose(output, None, videos=True, default=request.output_format)
    request = attrs.evolve(request, output_format=target.format)  # type: ignore[arg-type]
    from mold_core.cli.progress import ProgressLine

    line = ProgressLine()
    state.falls_back = False  # hours of work must not start on another machine than the named one
    engine = state.engine
    try:
        response = engine.chain(request, line)
    finally:
        line.clear()
        engine.close()
    target.write([response.video], model=response.model, seed=response.seed_used, time_ms=response.generation_time_ms)


def _plan(state: State, request: ChainRequest) -> ChainPlan:
    """Return the clips of a script. A model that is not in the catalog here, but may be at a server, sets no rules."""
    from mold_core.catalog import resolve
    from mold_core.chains import ClipRules, plan

    plugins = state.plugins
    renderer = None
    with suppress(UnknownModelError):
        spec = resolve(request.model or state.settings.default_model or "", plugins.models)
        renderer = plugins.chain_renderers.get(spec.family)
    return plan(request, ClipRules.of(renderer))


def describe(plan: ChainPlan) -> str:
    """Return the plan of a chain in words."""
    count = len(plan.stages)
    return f"{count} {'stage' if count == 1 else 'stages'}, {plan.total_frames} frames estimated"
