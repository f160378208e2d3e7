"""The commands that plugins add, for the help page: remembered, so that `mold --help` need not import every plugin.

What was found is kept in ``$MOLD_HOME/cache/commands.json`` and holds as long as nothing it was made from changed: the
folders Python imports from (installing or removing a package changes them), the plugins' own modules, config.toml and
MOLD_PLUGINS. Running a plugin's command always asks the plugins themselves.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping

import click

from mold_core.home import mold_home
from mold_core.version import VERSION

__all__ = ["listed_commands"]

Found = tuple[Mapping[str, click.Command], list[str]]


def listed_commands(find: Callable[[], Found]) -> dict[str, str]:
    """Return name → short help of the plugins' commands. `find` loads the plugins: commands and module files."""
    cache = mold_home() / "cache" / "commands.json"
    try:
        remembered = json.loads(cache.read_text("utf-8"))
        if remembered["made_from"] == _fingerprint(remembered["modules"]):
            return dict(remembered["commands"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing usable is remembered: look
    commands, modules = find()
    listed = {name: command.get_short_help_str(80) for name, command in commands.items()}
    _remember(cache, {"made_from": _fingerprint(modules), "modules": modules, "commands": listed})
    return listed


def _fingerprint(modules: list[str]) -> list[object]:
    paths = [*(path for path in sys.path if path), *modules, str(mold_home() / "config.toml")]
    return [VERSION, os.environ.get("MOLD_PLUGINS"), *([path, _changed_at(path)] for path in paths)]


def _changed_at(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


def _remember(cache: os.PathLike[str], content: dict[str, object]) -> None:
    from pathlib import Path

    from mold_core.errors import OutputError
    from mold_core.files import write_whole

    try:
        Path(cache).parent.mkdir(parents=True, exist_ok=True)
        write_whole(cache, json.dumps(content).encode())
    except (OSError, OutputError):
        return  # a help page must come also where nothing can be written
