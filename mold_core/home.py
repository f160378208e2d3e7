"""Where mold keeps its files. A module of its own because it is needed before settings are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["mold_home"]


def mold_home(environ: Mapping[str, str] | None = None) -> Path:
    """Return ``$MOLD_HOME``, or ``~/.mold``."""
    value = (os.environ if environ is None else environ).get("MOLD_HOME")
    return Path(os.path.expanduser(value or "~/.mold"))
