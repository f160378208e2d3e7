"""config.toml changed one key at a time: the rest of the file, comments and all, stays as its owner wrote it."""

from __future__ import annotations

import codecs
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mold_core.errors import OutputError, SettingsError
from mold_core.files import write_whole

__all__ = ["change_key", "change_table", "decoded", "parsed"]

_OTHER_ENCODINGS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


def change_key(path: Path, key: str, value: object) -> None:
    """Write a dotted key into the file, or take it out for None; the file is made where there is none.

    Raises SettingsError for a file whose text cannot be changed without rewriting it, and OutputError.
    """
    text = _text_of(path)
    changed = _changed(text, key, value)
    # The text was changed by lines, which knows little of TOML: what it means now decides whether that went well.
    if parsed(changed, path) != _with_key(parsed(text, path), key.split("."), value):
        raise _cannot_change(path, key)
    _write(path, changed)


def change_table(path: Path, keys: tuple[str, ...], table: Mapping[str, Any] | None) -> None:
    """Write a table into the file in place of the one of that path, or take it out for None.

    Raises SettingsError and OutputError as `change_key` does.
    """
    text = _text_of(path)
    lines = _without_table(text.splitlines(keepends=True), keys)
    if table is not None:
        before = "\n" if lines else ""
        heading = ".".join(map(_toml_key, keys))
        lines += [f"{before}[{heading}]\n", *(f"{_toml_key(name)} = {_toml(value)}\n" for name, value in table.items())]
    changed = "".join(lines)
    wanted = _with_key(parsed(text, path), list(keys), None if table is None else dict(table))
    if _filled(parsed(changed, path)) != _filled(wanted):
        raise _cannot_change(path, ".".join(keys))
    _write(path, changed)


def _text_of(path: Path) -> str:
    try:
        return decoded(path.read_bytes(), path)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise SettingsError("%s cannot be read: %s", path, error) from None


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError("%s cannot be made: %s", path.parent, error) from None
    write_whole(path, text.encode())


def _cannot_change(path: Path, key: str) -> SettingsError:
    return SettingsError(
        "%s cannot be changed in %s without rewriting the file", key, path, field=key, hint="mold config edit opens it"
    )


def _without_table(lines: list[str], keys: tuple[str, ...]) -> list[str]:
    """Return the lines without a table, its own tables, and a line that says it within the table around it."""
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    kept: list[str] = []
    here: tuple[str, ...] = ()
    inline = re.compile(rf"""\s*["']?{re.escape(keys[-1])}["']?\s*=""")
    for line in lines:
        if line.lstrip().startswith("["):
            here = _heading_path(line)
        gone = here[: len(keys)] == keys or (here == keys[:-1] and inline.match(line))
        if not gone:
            kept.append(line)
    while kept and not kept[-1].strip():
        kept.pop()
    return kept


def _heading_path(line: str) -> tuple[str, ...]:
    """Return the keys of a heading such as ``[models."a:b"]``; nothing for one that is none."""
    try:
        inner: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return ()
    found: list[str] = []
    while isinstance(inner, dict) and inner:
        ((name, inner),) = inner.items()
        found.append(name)
    return tuple(found)


def _filled(value: Any) -> Any:
    """Return a document without its empty tables."""
    if not isinstance(value, dict):
        return value
    filled = {key: _filled(item) for key, item in value.items()}
    return {key: item for key, item in filled.items() if item != {}}


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


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_toml_key(name)} = {_toml(item)}' for name, item in value.items())} }}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False)


def decoded(data: bytes, path: Path) -> str:
    """Return the text of a TOML file, with or without a byte order mark. Raises SettingsError naming file and line."""
    for mark, encoding in _OTHER_ENCODINGS.items():
        if data.startswith(mark):
            raise SettingsError("%s is not valid TOML: line 1: the file is %s", path, encoding, hint="save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            "%s is not valid TOML: line %s: the byte 0x%s is not UTF-8",
            path,
            line,
            f"{data[error.start]:02x}",
            hint="save the file as UTF-8",
        ) from None


def parsed(text: str, path: Path) -> dict[str, Any]:
    """Return what a text in TOML holds. Raises SettingsError naming file and line."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem, _, place = str(error).removesuffix(")").partition(" (at ")
        found = re.match(r"line (\d+)", place)
        line = found[1] if found else text.rstrip().count("\n") + 1
        raise SettingsError(
            "%s is not valid TOML: line %s: %s", path, line, problem, hint="mold config edit opens it"
        ) from None


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
