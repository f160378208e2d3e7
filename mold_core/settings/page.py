"""The page of the documentation that lists all settings, made from their table."""

from __future__ import annotations

from pathlib import Path
from typing import get_args, get_origin

import attrs

from mold_core.settings.row import Setting
from mold_core.settings.table import setting_table

__all__ = ["settings_page"]


def settings_page() -> str:
    """Return the documentation of all settings as Markdown; `python -m mold_core.settings` prints it."""
    lines = [_PAGE_START]
    for row in setting_table():
        key = f"`{row.key}`" if row.key else "–"
        lines.append(f"| `{row.env}` | {key} | {_kind(row)} | {_default(row)} | {row.doc} |")
    return "\n".join(lines) + "\n"


_PAGE_START = """\
# Settings

A setting is taken from the first of these that has it: the flag of the command, the environment variable, the file
`config.toml` in `MOLD_HOME`, the default. An empty variable counts as not set, unless the table says what empty means.
A key of `config.toml` that is not in this table is refused. `mold info` shows which files are in use.

This page is made from the table in the code: `python -m mold_core.settings > docs/settings.md`.

| environment | config.toml | value | default | meaning |
|---|---|---|---|---|"""


def _kind(row: Setting) -> str:
    types = [option for option in get_args(row.type) or (row.type,) if option is not type(None)]
    if get_origin(row.type) is dict:
        return "tables"
    if isinstance(types[0], str):
        return ", ".join(types)
    if get_origin(types[0]) is tuple:
        return "names, separated by commas in the variable"
    words = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path"}[types[0]]
    low, high = row.bounds.minimum, row.bounds.maximum
    return words if low is None or high is None else f"{words} from {low:,} to {high:,}"


def _default(row: Setting) -> str:
    if row.name == "home":
        return "`~/.mold`"
    if row.default is None or isinstance(row.default, attrs.Factory):  # type: ignore[arg-type]
        return "–"
    return f"`{str(row.default).lower() if isinstance(row.default, bool) else row.default}`"
