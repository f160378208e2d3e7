"""The flags that say how a model is held in memory and on which devices, for every command that runs one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["memory_flags", "take_memory_flags"]

Function = TypeVar("Function", bound=Callable[..., Any])

_PLACES = {
    "device_text_encoders": "the text encoders",
    "device_transformer": "the transformer",
    "device_vae": "the autoencoder",
}
_NAMES = ("memory_strategy", *_PLACES)


def memory_flags(function: Function) -> Function:
    """Add the flags to a command; each stands for the setting of its name."""
    options = [
        click.option("--eager", "memory_strategy", flag_value="eager", help="Keep the whole model in memory."),
        click.option("--sequential", "memory_strategy", flag_value="sequential", help="Load one component at a time."),
        click.option(
            "--offload",
            "memory_strategy",
            flag_value="offload",
            help="Stream the model block by block; uses the least memory.",
        ),
        *(
            click.option(f"--{name.replace('_', '-')}", metavar="DEVICE", help=f"Device of {what}: cpu, cuda, cuda:1 …")
            for name, what in _PLACES.items()
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def take_memory_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """Take the flags out of a command's and return them as settings; those not given are None."""
    return {name: flags.pop(name) for name in _NAMES}
