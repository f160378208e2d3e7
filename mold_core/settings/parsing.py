"""Converts the text of a variable, or a TOML value, to the value of a setting."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from mold_core.errors import SettingsError
from mold_core.home import expanded
from mold_core.settings.row import Setting
from mold_core.wire.fields import bound_problem, shorten

__all__ = ["parse_setting"]

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


def parse_setting(row: Setting, value: Any, source: str) -> Any:
    """Return the value of a setting, parsed from text or a TOML value. Raises SettingsError that names `source`."""
    try:
        result = _parse(row.type, value)
    except ValueError as error:
        raise SettingsError(f"{source} {error}", field=row.name, value=value) from None
    problem = bound_problem(row.bounds, result)
    if problem:
        raise SettingsError(f"{source} {problem}", field=row.name, value=value)
    return result


def _parse(type_: Any, value: Any) -> Any:
    """Convert `value` (text of a variable, or a TOML value) to `type_`. Raises ValueError that says what is allowed."""
    options = [option for option in get_args(type_) if option is not type(None)]
    if get_origin(type_) is Literal:
        return _parse_word(get_args(type_), value)
    if get_origin(type_) is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise ValueError(f"must be a list of names, not {shorten(value)}")
        return tuple(item.strip() for item in items if item.strip())
    if get_origin(type_) is dict:
        return _parse_styles(value)
    if type(None) in get_args(type_):
        return _parse(options[0], value)
    if type_ is bool:
        return _parse_bool(value)
    if type_ is Path:
        if not isinstance(value, str | Path):
            raise ValueError(f"must be a path, not {shorten(value)}")
        return expanded(value)
    if type_ in (int, float):
        return _parse_number(type_, value)
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {shorten(value)}")
    return value


def _parse_styles(value: Any) -> dict[str, dict[str, Any]]:
    """Return the tables with word_limit and style_notes, by family."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f"must be a JSON object, not {shorten(value)}") from None
    expected = 'must hold tables by family, such as sdxl = { word_limit = 40, style_notes = "…" }'
    if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
        raise ValueError(f"{expected}, not {shorten(value)}")
    for family, table in value.items():
        limit, notes = table.get("word_limit", 1), table.get("style_notes", "")
        if table.keys() - {"word_limit", "style_notes"} or not isinstance(notes, str):
            raise ValueError(f"{expected}, not {shorten(table)} for {shorten(family)}")
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 10_000:
            raise ValueError(f"has for {shorten(family)} a word_limit that is not from 1 to 10,000: {shorten(limit)}")
    return {family: dict(table) for family, table in value.items()}


def _parse_word(words: tuple[str, ...], value: Any) -> str:
    word = str(value).lower()
    if word == "warn" and "warning" in words:
        word = "warning"
    if word not in words:
        raise ValueError(f"must be one of {', '.join(words)}, not {shorten(value)}")
    return word


def _parse_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError(f"must be true or false, not {shorten(value)}")
    return word in _TRUE


def _parse_number(type_: type, value: Any) -> Any:
    kind = "a whole number" if type_ is int else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"must be {kind}, not {shorten(value)}")
    try:
        number = type_(value)
    except (ValueError, OverflowError):
        number = None
    if number is None or (isinstance(value, float) and number != value and isfinite(value)):
        raise ValueError(f"must be {kind}, not {shorten(value)}")
    return number
