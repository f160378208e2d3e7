"""Find the model folders of other programs: ComfyUI, A1111, Forge, InvokeAI, SwarmUI and Fooocus."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

from mold_core.errors import ValidationError

__all__ = ["Locations", "locations_of"]

# NOTE: os.path returns False for unreadable or invalid paths; pathlib raises.

# A file or folder that only a program's root has → its folders with models.
_PROGRAMS = {
    "comfy": ("models",),
    "webui.py": ("models", "embeddings"),
    "fooocus_version.py": ("models",),
    "invokeai.yaml": ("models", "autoimport"),
    "src/SwarmUI.csproj": ("Models", "dlbackend/ComfyUI/models"),
}
_YAML = ("extra_model_paths.yaml", "extra_model_paths.yml")
_LARGEST_BYTES = 2**20


@attrs.frozen(kw_only=True)
class Locations:
    """Paths to search for weights, and names from a program's database, by path. `notes` are messages for users."""

    roots: tuple[Path, ...]
    names: Mapping[str, str] = attrs.Factory(dict)
    notes: tuple[str, ...] = ()


def locations_of(path: Path) -> Locations:
    """Return where to search for weights, for a file, a folder, a program's folder or an extra_model_paths.yaml.

    Raises ValidationError for a YAML file that cannot be used.
    """
    if path.suffix.lower() in (".yaml", ".yml"):
        return Locations(roots=tuple(_yaml_roots(path)))
    if os.path.isfile(path):
        return Locations(roots=(path,))
    inside = next((folders for mark, folders in _PROGRAMS.items() if os.path.exists(path / mark)), None)
    roots = [path] if inside is None else [path / name for name in inside if os.path.isdir(path / name)] or [path]
    notes = []
    for name in _YAML:
        if os.path.isfile(path / name):
            try:
                roots += _yaml_roots(path / name)
            except ValidationError as error:
                notes.append(str(error))
    roots += _fooocus_roots(path / "config.txt")
    external, names = _invokeai(path)
    return Locations(roots=_outermost([*roots, *external]), names=names, notes=tuple(notes))


def _outermost(paths: list[Path]) -> tuple[Path, ...]:
    """Return the paths that are not inside another one."""
    return tuple(
        path
        for path in dict.fromkeys(paths)
        if not any(path != other and path.is_relative_to(other) for other in paths)
    )


def _yaml_roots(path: Path) -> Iterator[Path]:
    """Yield the folders of an extra_model_paths.yaml: `base_path` joined with each line of an entry."""
    try:
        import yaml
    except ImportError:
        raise ValidationError("reading extra_model_paths.yaml needs PyYAML", hint="pip install pyyaml") from None
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ValidationError("%s is too large for a list of folders", path)
        document = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:  # ValueError: 30 February, among others
        raise ValidationError("%s cannot be read: %s", path, " ".join(str(error).split())) from None
    if not isinstance(document, dict):
        raise ValidationError("%s names no folders: it must map programs to folders", path)
    for section in document.values():
        if isinstance(section, dict):
            yield from _section_roots(section, path.parent)


def _section_roots(section: Mapping[Any, Any], yaml_folder: Path) -> Iterator[Path]:
    base = Path(os.path.expandvars(os.path.expanduser(str(section.get("base_path") or "."))))
    base = base if base.is_absolute() else yaml_folder / base
    for key, value in section.items():
        if key in ("base_path", "is_default") or not isinstance(value, str):
            continue
        for line in filter(None, map(str.strip, value.split("\n"))):
            folder = Path(os.path.normpath(base / os.path.expandvars(os.path.expanduser(line))))
            if os.path.isdir(folder):
                yield folder


def _fooocus_roots(config: Path) -> Iterator[Path]:
    """Yield the folders that Fooocus' config.txt names."""
    try:
        if config.stat().st_size > _LARGEST_BYTES:
            return
        table = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(table, dict):
        return
    for key, value in table.items():
        if key.startswith("path_") and key != "path_outputs":
            for folder in value if isinstance(value, list) else [value]:
                if isinstance(folder, str) and os.path.isdir(folder):
                    yield Path(folder)


def _invokeai(root: Path) -> tuple[list[Path], dict[str, str]]:
    """Return the models in InvokeAI's database that are outside of its folder, and the names of all, by path."""
    database = root / "databases" / "invokeai.db"
    if not os.path.isfile(database):
        return [], {}
    paths: list[Path] = []
    names: dict[str, str] = {}
    for config in _configs(database):
        where, name = config.get("path"), config.get("name")
        if not isinstance(where, str) or not where:
            continue
        path = Path(where) if Path(where).is_absolute() else root / "models" / where
        if os.path.exists(path):
            paths.append(path)
            if isinstance(name, str) and name:
                names[str(path)] = name
    return [path for path in paths if not path.is_relative_to(root)], names


def _configs(database: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the records of InvokeAI's table of models. InvokeAI may have the database open."""
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=2)) as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            table = next((name for name in ("models", "model_config") if name in tables), None)
            rows = connection.execute(f"SELECT config FROM {table}").fetchall() if table else []
    except sqlite3.Error:
        return
    for (text,) in rows:
        try:
            config = json.loads(text)
        except (TypeError, ValueError, RecursionError):
            continue
        if isinstance(config, dict):
            yield config
