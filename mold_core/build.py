"""What this copy of mold was made from: a revision and a day, where something tells."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path

import attrs

__all__ = ["Build", "build_of", "this_build"]

# What `setup.py` writes into a wheel that is built from a checkout.
NOTE = "build.json"

_TIMEOUT_S = 5.0


@attrs.frozen(kw_only=True)
class Build:
    """The revision in git, shortened, and a day as YYYY-MM-DD; None for what is not known."""

    git_sha: str | None = None
    build_date: str | None = None


@cache
def this_build() -> Build:
    """Return what this copy was made from; it is found out once, which may start git."""
    return build_of(Path(__file__).parent)


def build_of(package: Path) -> Build:
    """Return what a copy of the package in a folder was made from.

    A wheel carries a note of the revision and the day it was built. A checkout is asked through git; its day is that
    of the revision. Of anything else nothing is known.
    """
    try:
        note = json.loads((package / NOTE).read_text("utf-8"))
    except (OSError, ValueError):
        return _checkout(package.parent)
    return Build(git_sha=note.get("git_sha"), build_date=note.get("build_date"))


def _checkout(folder: Path) -> Build:
    if not (folder / ".git").exists():  # a folder inside of somebody else's checkout says nothing of mold
        return Build()
    command = ["git", "-C", str(folder), "log", "-1", "--format=%h %cs"]
    try:
        output = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=True).stdout.decode().split()
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return Build()
    return Build(git_sha=output[0], build_date=output[1]) if len(output) == 2 else Build()
