"""Finds the value of a setting in flags, environment variables or the file config.toml."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

from mold_core.config_file import decoded, parsed
from mold_core.errors import SettingsError
from mold_core.settings.row import Setting

__all__ = ["find", "read_config", "tables", "unknown_keys"]


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of config.toml, empty if there is no file. Raises SettingsError naming the file and line."""
    try:
        return parsed(decoded(path.read_bytes(), path), path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError("%s cannot be read: %s", path, error) from None


def unknown_keys(config: Mapping[str, Any], rows: Sequence[Setting]) -> list[str]:
    """Return the keys of config.toml that belong to no row."""
    known = {row.key for row in rows}
    tables = tuple(f"{row.key}." for row in rows if get_origin(row.type) is dict)
    keys = _keys({key: value for key, value in config.items() if key != "models"})
    return [key for key in keys if key not in known and not key.startswith(tables)]


def tables(config: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    """Return the tables under a key of config.toml. Raises SettingsError if the value is not a table."""
    found = config.get(key, {})
    if not isinstance(found, Mapping):
        raise SettingsError("%s: %s must be a table of tables", path, key, field=key)
    return found


def _keys(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def find(
    row: Setting, flags: Mapping[str, Any], environ: Mapping[str, str], config: Mapping[str, Any]
) -> tuple[Any, str] | None:
    """Return the value of a setting and the name of its source; None if it is not set."""
    if row.name in flags:
        return flags[row.name], f"--{row.name.replace('_', '-')}"
    if environ.get(row.env) or (row.empty_counts and row.env in environ):
        return environ[row.env], row.env
    value: Any = config
    for key in (row.key or "").split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return None if value is None else (value, f"{row.key} in config.toml")
