"""The flags that choose where a command runs: in this process, or on a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from mold_core.cli.state import State

__all__ = ["host_flag", "server_flags"]

Function = TypeVar("Function", bound=Callable[..., Any])


def host_flag(function: Function) -> Function:
    """Add --host to a command that needs a server. State keeps the value; the command gets no argument."""
    return click.option(
        "--host",
        metavar="HOST",
        expose_value=False,
        callback=_use_host,
        help="Server to use: name, name:port or URL; default: MOLD_HOST, else a server running on this machine.",
    )(function)


def server_flags(function: Function) -> Function:
    """Add --host and --local to a command. State keeps the values; the command gets no arguments."""
    local = click.option(
        "--local", is_flag=True, expose_value=False, callback=_stay_local, help="Use no server; run in this process."
    )
    return host_flag(local(function))


def _use_host(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(State).use_flags(host=value)


def _stay_local(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(State).local = True
