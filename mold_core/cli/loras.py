"""LoRAs on the command line: the value of --lora, and `mold list --loras`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mold_core.cli.state import State
    from mold_core.wire import LoraWeight

from mold_core.cli.output import echo, echo_json

__all__ = ["list_loras", "lora_weight"]


def lora_weight(text: str) -> LoraWeight:
    """Return the LoRA of ``NAME``, ``PATH`` or either with ``:SCALE``. Relative paths start at the current folder."""
    from mold_core.wire import LoraWeight

    name, colon, scale = text.rpartition(":")
    try:
        number = float(scale)
    except ValueError:
        colon = ""
    named, strength = (name, number) if colon and name else (text, 1.0)
    path = os.path.expanduser(named)
    return LoraWeight(path=os.path.abspath(path) if os.path.isfile(path) else named, scale=strength)


def list_loras(state: State, *, as_json: bool) -> None:
    """Print the names and sizes of the LoRAs on this machine or on the named server."""
    from mold_core.text import readable_size
    from mold_core.wire.convert import to_json

    found = state.disk.loras()
    if as_json:
        echo_json([to_json(lora) for lora in found])
        return
    width = max((len(lora.name) for lora in found), default=0)
    for lora in found:
        echo(f"{lora.name:<{width}}  {readable_size(lora.size_bytes):>8}")
    if not found:
        echo("No LoRAs: put .safetensors files into the folder loras in MOLD_HOME.")
