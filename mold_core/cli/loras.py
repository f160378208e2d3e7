"""Adapters (LoRA) as commands are given them, and as `mold list --loras` shows them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mold_core.catalog import LoraFolder
    from mold_core.wire import LoraWeight

__all__ = ["list_loras", "lora_weight"]


def lora_weight(text: str) -> LoraWeight:
    """Return the adapter that ``NAME``, ``PATH`` or either with ``:SCALE`` means. Files are looked for from here."""
    from mold_core.wire import LoraWeight

    name, colon, scale = text.rpartition(":")
    try:
        number = float(scale)
    except ValueError:
        colon = ""
    named, strength = (name, number) if colon and name else (text, 1.0)
    path = os.path.expanduser(named)
    return LoraWeight(path=os.path.abspath(path) if os.path.isfile(path) else named, scale=strength)


def list_loras(folder: LoraFolder, *, as_json: bool) -> None:
    """Print the adapters of the folder with their sizes."""
    from mold_core.cli.list_models import readable_size

    found = [(name, file, file.stat().st_size) for name, file in folder.names()]
    if as_json:
        rows = [{"name": name, "path": str(file), "size_bytes": size} for name, file, size in found]
        click.echo(json.dumps(rows, indent=2))
        return
    width = max((len(name) for name, _, _ in found), default=0)
    for name, _, size in found:
        click.echo(f"{name:<{width}}  {readable_size(size):>8}")
    if not found:
        click.echo(f"No LoRA: put .safetensors files into {folder.path}.")
