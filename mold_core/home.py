"""The folder MOLD_HOME. A separate module because it is needed before settings are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["expanded", "mold_home"]


def mold_home(environ: Mapping[str, str] | None = None) -> Path:
    """Return ``$MOLD_HOME``, or ``~/.mold``."""
    value = (os.environ if environ is None else environ).get("MOLD_HOME")
    return expanded(value or "~/.mold")


def expanded(path: str | Path) -> Path:
    """Return a path with "~" expanded. Unlike Path.expanduser() it does not fail for an unknown user."""
    return Path(os.path.expanduser(path))
