"""Edits config.toml one key or table at a time; comments, order and layout of the rest are kept."""

from __future__ import annotations

import codecs
import re
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mold_core.errors import OutputError, SettingsError
from mold_core.files import write_whole

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

__all__ = ["change_key", "change_table", "decoded", "parsed"]

_OTHER_ENCODINGS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


def change_key(path: Path, key: str, value: object) -> None:
    """Set a dotted key in the file, or remove it if the value is None. Creates the file if there is none.

    Raises SettingsError for a file that cannot be read, and OutputError for one that cannot be written.
    """
    _change(path, tuple(key.split(".")), value)


def change_table(path: Path, keys: tuple[str, ...], table: Mapping[str, Any] | None) -> None:
    """Replace the table at the path `keys` in the file, or remove it if `table` is None.

    Raises SettingsError and OutputError as `change_key` does.
    """
    _change(path, keys, None if table is None else dict(table))


def _change(path: Path, keys: tuple[str, ...], value: object) -> None:
    data = _bytes_of(path)
    text = decoded(data, path)
    changed = _changed(text, path, keys, _plain(value))
    if "\r\n" in text and "\n" not in text.replace("\r\n", ""):
        changed = re.sub("\r?\n", "\r\n", changed)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError("%s cannot be created: %s", path.parent, error) from None
    mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    write_whole(path, mark + changed.encode())


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise SettingsError("%s cannot be read: %s", path, error) from None


def _changed(text: str, path: Path, keys: tuple[str, ...], value: object) -> str:
    """Return the text with one value changed."""
    import tomlkit

    wanted = _without_empty(_with_value(parsed(text, path), keys, value, path))
    # A table below an inline table, or below dotted keys, can only be an inline table itself.
    for new_table in (tomlkit.table, tomlkit.inline_table):
        with suppress(tomlkit.exceptions.TOMLKitError, ValueError):
            document = tomlkit.parse(text if text.endswith("\n") or not text else f"{text}\n")
            _put(document, keys, value, new_table)
            changed = tomlkit.dumps(document)
            if value is None:  # the blank line above a table that was the last goes with it
                changed = re.sub(r"(\r?\n)[\r\n]+\Z", r"\1", changed)
            # NOTE: settings must never be damaged by a fault of the library, so its result is read back.
            if _without_empty(tomllib.loads(changed)) == wanted:
                return changed
    key = ".".join(keys)
    raise SettingsError("%s cannot be changed in %s", key, path, field=key, hint="mold config edit opens the file")


def _put(document: TOMLDocument, keys: tuple[str, ...], value: object, new_table: Callable[[], Any]) -> None:
    import tomlkit

    if value is not None and len(keys) > 1 and keys[0] not in document and _ends_in_key(document):
        document.add(tomlkit.nl())
    table: Any = document
    for name in keys[:-1]:
        if name not in table:
            if value is None:
                return
            table[name] = new_table()
        table = table[name]
    if value is None:
        table.pop(keys[-1], None)
    elif isinstance(value, dict):
        table[keys[-1]] = new_table()
        table[keys[-1]].update({name: _inline(item) for name, item in value.items()})
    else:
        table[keys[-1]] = value


def _inline(value: object) -> object:
    """Return a value whose tables are written within one line."""
    if not isinstance(value, dict):
        return value
    import tomlkit

    table = tomlkit.inline_table()
    table.update({name: _inline(item) for name, item in value.items()})
    return table


def _ends_in_key(document: TOMLDocument) -> bool:
    from tomlkit.items import AoT, Null, Table, Whitespace

    last = document.body[-1][1] if document.body else Null()
    return not isinstance(last, AoT | Null | Table | Whitespace)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float) or value is None else str(value)


def _without_empty(value: Any) -> Any:
    """Return a document without its empty tables."""
    if not isinstance(value, dict):
        return value
    inner = {key: _without_empty(item) for key, item in value.items()}
    return {key: item for key, item in inner.items() if item != {}}


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


def _with_value(document: dict[str, Any], keys: tuple[str, ...], value: object, path: Path) -> dict[str, Any]:
    """Return the document with one value changed. Raises SettingsError where a key on the way is not a table."""
    name, *rest = keys
    if not rest:
        others = {key: item for key, item in document.items() if key != name}
        return others if value is None else {**others, name: value}
    inner = document.get(name, {})
    if not isinstance(inner, dict):
        raise SettingsError("%s: %s must be a table", path, name, field=name, hint="mold config edit opens the file")
    return {**document, name: _with_value(inner, tuple(rest), value, path)}
