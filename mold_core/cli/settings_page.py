"""docs/settings.md, generated from the settings: ``python -m mold_core.cli.settings_page > docs/settings.md``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args, get_origin

import attrs

from mold_core.plugins import load_plugins
from mold_core.settings import Setting, setting_table

__all__ = ["settings_page"]


def settings_page() -> str:
    """Return the documentation of all settings, those of installed plugins included, as Markdown."""
    lines = [_PAGE_START, *_rows(setting_table())]
    for name, rows in load_plugins().settings_by_plugin().items():
        lines += [f"\n## Settings of the plugin {name}\n", _COLUMNS, *_rows(rows)]
    return "\n".join(lines) + "\n"


def _rows(rows: Iterable[Setting]) -> Iterator[str]:
    for row in rows:
        key = f"`{row.key}`" if row.key else "–"
        yield f"| `{row.env}` | {key} | {_kind(row)} | {_default(row)} | {row.doc} |"


_COLUMNS = """\
| environment | config.toml | value | default | meaning |
|---|---|---|---|---|"""

_PAGE_START = f"""\
# Settings

A setting is taken from the first of these that has it: the flag of the command, the environment variable, the file
`config.toml` in `MOLD_HOME`, the default. An empty variable counts as not set, unless the table says what empty means.
A key of `config.toml` that neither mold nor an installed plugin declares is refused; while a plugin is broken, it is
ignored with a warning. `mold info` shows which files are in use.

This page is generated from the code: `python -m mold_core.cli.settings_page > docs/settings.md`.

{_COLUMNS}"""


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


if __name__ == "__main__":
    print(settings_page(), end="")
