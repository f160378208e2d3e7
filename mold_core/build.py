"""The git revision and the build date of this installation, if known."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path

import attrs

__all__ = ["Build", "build_of", "this_build"]

# The file that `setup.py` writes into wheels.
NOTE = "build.json"

_TIMEOUT_S = 5.0


@attrs.frozen(kw_only=True)
class Build:
    """The short git revision and the date as YYYY-MM-DD; None if unknown."""

    git_sha: str | None = None
    build_date: str | None = None


@cache
def this_build() -> Build:
    """Return the build of this installation. The first call may start git."""
    return build_of(Path(__file__).parent)


def build_of(package: Path) -> Build:
    """Return the build of the package in a folder.

    A wheel has a file with its revision and build date. For a checkout, git reports the revision and its date.
    """
    try:
        note = json.loads((package / NOTE).read_text("utf-8"))
    except (OSError, ValueError):
        return _checkout(package.parent)
    return Build(git_sha=note.get("git_sha"), build_date=note.get("build_date"))


def _checkout(folder: Path) -> Build:
    if not (folder / ".git").exists():  # the checkout of another project must not be reported
        return Build()
    command = ["git", "-C", str(folder), "log", "-1", "--format=%h %cs"]
    try:
        output = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=True).stdout.decode().split()
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return Build()
    return Build(git_sha=output[0], build_date=output[1]) if len(output) == 2 else Build()
