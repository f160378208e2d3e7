"""config.toml changed one key at a time: the rest of the file, comments and all, stays as its owner wrote it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from mold_core.errors import OutputError, SettingsError
from mold_core.files import write_whole

__all__ = ["change_key"]


def change_key(path: Path, key: str, value: object) -> None:
    """Write a dotted key into the file, or take it out for None; the file is made where there is none.

    Raises SettingsError for a file whose text cannot be changed without rewriting it, and OutputError.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None
    changed = _changed(text, key, value)
    # The text was changed by lines, which knows little of TOML: what it means now decides whether that went well.
    if _parsed(changed, path) != _with_key(_parsed(text, path), key.split("."), value):
        raise SettingsError(
            f"{key} cannot be changed in {path} without rewriting the file", field=key, hint="mold config edit opens it"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.parent} cannot be made: {error.strerror}") from None
    write_whole(path, changed.encode())


def _changed(text: str, key: str, value: object) -> str:
    table, _, name = key.rpartition(".")
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    start, end = _section(lines, table)
    line = "" if value is None else f"{name} = {_toml(value)}"
    for place in range(start, end):
        if re.match(rf"\s*{re.escape(name)}\s*=", lines[place]):
            comment = re.search(r"\s+#[^'\"]*$", lines[place].rstrip("\n"))
            lines[place] = f"{line}{comment[0] if comment else ''}\n" if line else ""
            return "".join(lines)
    if not line:
        return text
    if table and start == end == len(lines) and not _has_section(lines, table):
        lines += [*(["\n"] if lines else []), f"[{table}]\n"]
        end = len(lines)
    while end > start and not lines[end - 1].strip():
        end -= 1
    lines.insert(end, f"{line}\n")
    return "".join(lines)


def _section(lines: list[str], table: str) -> tuple[int, int]:
    """Return where the lines of a table begin and end; behind the last line for one that is not there."""
    start = 0
    if table:
        start = next((n + 1 for n, line in enumerate(lines) if _heading(line) == table), len(lines))
    end = next((n for n in range(start, len(lines)) if lines[n].lstrip().startswith("[")), len(lines))
    return start, end


def _has_section(lines: list[str], table: str) -> bool:
    return any(_heading(line) == table for line in lines)


def _heading(line: str) -> str | None:
    match = re.match(r"\s*\[\s*([\w.-]+)\s*\]\s*(#.*)?$", line)
    return match[1] if match else None


def _toml(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False)


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}", hint="mold config edit opens it") from None


def _with_key(document: dict[str, Any], parts: list[str], value: object) -> dict[str, Any]:
    """Return the document with a key set, or without it; a table that held nothing else stays, empty."""
    name, *rest = parts
    if rest:
        inner = document.get(name)
        if inner is None and value is None:
            return document
        return {**document, name: _with_key(inner if isinstance(inner, dict) else {}, rest, value)}
    if value is None:
        return {key: item for key, item in document.items() if key != name}
    plain = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    return {**document, name: plain}
