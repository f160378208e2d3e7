"""mold server: run the HTTP server in the background."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mold_core.cli.output import echo, echo_json, style
from mold_core.cli.server_flags import host_flag
from mold_core.cli.state import State
from mold_core.errors import MoldError, OutputError, ServerError

if TYPE_CHECKING:
    from mold_core.client import ServerStatus
    from mold_core.client.local import ServerProcess

__all__ = ["command", "status_rows"]

EPILOG = """\b
Examples:
  mold server start
  MOLD_API_KEY=secret mold server start --bind 0.0.0.0
  mold server status
  mold server stop"""

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 10.0
_LOOK_S = 0.1


@click.group("server", epilog=EPILOG)
def command() -> None:
    """Run the HTTP server in the background.

    Commands with the same MOLD_HOME use it, so models stay in memory. mold serve runs the same server in the
    foreground, and has more options; settings and environment variables apply to both.
    """


@command.command("start")
@click.option("--bind", metavar="ADDRESS", help="Address to listen on; default 127.0.0.1.")
@click.option("--port", type=click.IntRange(1, 65_535), help="Port; default 7680.")
@click.pass_obj
def start(state: State, bind: str | None, port: int | None) -> None:
    """Run the HTTP server in the background; return when it is ready. The log is $MOLD_HOME/logs/server.log."""
    from mold_core.client.local import local_client, server_process

    settings = state.settings
    running = server_process(settings.home)
    if running is not None:
        raise ServerError(
            f"a server is already running: {running.address}, process {running.pid}", hint="mold server stop"
        )
    flags = [*(("--bind", bind) if bind else ()), *(("--port", str(port)) if port else ())]
    log = settings.home / "logs" / "server.log"
    pid = _spawn(["serve", *flags], log)
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            raise ServerError(f"the server exited during startup: {_last_line(log)}", hint=f"see {log}")
        found = server_process(settings.home)
        if found is not None and found.pid == pid and local_client(settings) is not None:
            mark = style("✓", fg="green")
            echo(f"{mark} mold is listening on {found.address}, process {pid}, log {log}", err=True)
            return
        time.sleep(_LOOK_S)
    os.kill(pid, signal.SIGTERM)
    raise ServerError(f"the server was not ready within {_START_TIMEOUT_S:.0f} s", hint=f"see {log}")


@command.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@host_flag
@click.pass_obj
def status(state: State, as_json: bool) -> None:
    """Show the server's address and state; exit status 1 if no server is running."""
    now = state.server.status()
    if as_json:
        from mold_core.wire.convert import to_json

        echo_json({"address": state.server.address, **to_json(now)})
        return
    for label, value in {"address": state.server.address, **status_rows(now)}.items():
        echo(f"{style(f'{label:<9}', dim=True)} {value}")


@command.command("stop")
@click.pass_obj
def stop(state: State) -> None:
    """Stop the server after its running jobs have finished."""
    from mold_core.client.local import local_client, server_process

    process = server_process(state.settings.home)
    if process is None:
        raise ServerError("no server is running for this MOLD_HOME")
    client = local_client(state.settings)
    try:
        if client is None:
            raise ServerError("the server does not respond")
        client.shutdown()
    except MoldError:
        os.kill(process.pid, signal.SIGTERM)
    if not _ended(process, state.settings.shutdown_grace_s + _STOP_TIMEOUT_S):
        os.kill(process.pid, signal.SIGTERM)
        if not _ended(process, _STOP_TIMEOUT_S):
            os.kill(process.pid, signal.SIGKILL)
            _ended(process, _STOP_TIMEOUT_S)
    echo(f"{style('✓', fg='green')} the server at {process.address} has stopped", err=True)


def status_rows(now: ServerStatus) -> dict[str, str]:
    """Return the status of a server as labels and text."""
    from mold_core.cli.progress import duration

    queue = f"{now.queue_depth} of {now.queue_capacity} waiting" + (", paused" if now.queue_paused else "")
    rows = {
        "version": now.version,
        "machine": now.hostname or "",
        "up for": duration(now.uptime_secs),
        "state": "busy" if now.busy else "idle",
        "queue": queue,
        "loaded": ", ".join(now.models_loaded) or "none",
        "memory": now.memory_status or "",
    }
    return {label: value for label, value in rows.items() if value}


def _spawn(arguments: list[str], log: Path) -> int:
    """Start mold in a new session, detached from the terminal, and return its process id."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise OutputError(f"{log} cannot be written: {error.strerror}") from None
    try:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-c", "from mold_core.cli.main import main; main()", *arguments],
            dict(os.environ),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, target, 1),
                (os.POSIX_SPAWN_DUP2, target, 2),
            ],
            setsid=True,
        )
    finally:
        os.close(target)


def _ended(process: ServerProcess, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while process.alive:
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_S)
    return True


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1].removeprefix("error: ") if lines else "the log is empty"
