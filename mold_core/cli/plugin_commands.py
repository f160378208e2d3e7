"""The cached list of plugin commands, so that `mold --help` need not import every plugin.

The list is stored in ``$MOLD_HOME/cache/commands.json`` and is valid until one of these changes: the folders on
Python's path (installing or removing a package changes them), the modules of the plugins, config.toml or MOLD_PLUGINS.
Running a plugin's command always loads the plugins.
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
    """Return name → short help of the plugins' commands. `find` loads the plugins and returns commands and modules."""
    cache = mold_home() / "cache" / "commands.json"
    try:
        cached = json.loads(cache.read_text("utf-8"))
        if cached["made_from"] == _fingerprint(cached["modules"]):
            return dict(cached["commands"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no valid cache
    commands, modules = find()
    listed = {name: command.get_short_help_str(80) for name, command in commands.items()}
    _store(cache, {"made_from": _fingerprint(modules), "modules": modules, "commands": listed})
    return listed


def _fingerprint(modules: list[str]) -> list[object]:
    paths = [*(path for path in sys.path if path), *modules, str(mold_home() / "config.toml")]
    return [VERSION, os.environ.get("MOLD_PLUGINS"), *([path, _changed_at(path)] for path in paths)]


def _changed_at(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


def _store(cache: os.PathLike[str], content: dict[str, object]) -> None:
    from pathlib import Path

    from mold_core.errors import OutputError
    from mold_core.files import write_whole

    try:
        Path(cache).parent.mkdir(parents=True, exist_ok=True)
        write_whole(cache, json.dumps(content).encode())
    except (OSError, OutputError):
        return  # the help page must also work on a read-only disk
