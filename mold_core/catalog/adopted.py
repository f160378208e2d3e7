"""Models of the user's that lie in folders of other programs: `adopted.json` in MOLD_HOME, and the catalog with them.

`mold adopt` writes the file (`mold_core.recognition.adopting`). A running server notices that it was written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import attrs

from mold_core.catalog.model import ModelSpec
from mold_core.catalog.user_models import user_model
from mold_core.errors import SettingsError
from mold_core.files import write_whole
from mold_core.settings import Settings

__all__ = ["Adopted", "CatalogWithAdopted", "adopted_path", "read_adopted", "write_adopted"]


@attrs.frozen(kw_only=True)
class Adopted:
    """What was adopted. `models` are tables like those of config.toml, by full name; `loras` are files by name.

    `folders` are those that were searched. `ignored` are files that were forgotten and stay so.
    """

    folders: tuple[str, ...] = ()
    models: Mapping[str, Mapping[str, Any]] = attrs.Factory(dict)
    loras: Mapping[str, str] = attrs.Factory(dict)
    ignored: tuple[str, ...] = ()


def adopted_path(home: Path) -> Path:
    """Return where adopted models are listed."""
    return home / "adopted.json"


def read_adopted(home: Path) -> Adopted:
    """Return what was adopted; nothing if the file is missing or damaged, which costs no more than another walk."""
    try:
        table = json.loads(adopted_path(home).read_bytes())
        return Adopted(
            folders=tuple(map(str, table["folders"])),
            models={str(name): dict(model) for name, model in table["models"].items()},
            loras={str(name): str(path) for name, path in table["loras"].items()},
            ignored=tuple(map(str, table["ignored"])),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Adopted()


def write_adopted(home: Path, adopted: Adopted) -> None:
    """Store what was adopted. Raises OutputError."""
    home.mkdir(parents=True, exist_ok=True)
    write_whole(adopted_path(home), json.dumps({"version": 1, **attrs.asdict(adopted)}, indent=1).encode())


class CatalogWithAdopted(MutableMapping[str, ModelSpec]):
    """A catalog with the adopted models behind its own, read again whenever `adopted.json` changes.

    A name of the catalog is never taken. A model whose table does not fit, because its plugin is gone, keeps its name
    and its family, so that listings show it.
    """

    def __init__(self, catalog: Mapping[str, ModelSpec], settings: Settings) -> None:
        self._catalog = dict(catalog)
        self._settings = settings
        self._read: tuple[object, dict[str, ModelSpec]] = (None, dict(catalog))
        self._models()

    def __getitem__(self, name: str) -> ModelSpec:
        return self._models()[name]

    def __setitem__(self, name: str, spec: ModelSpec) -> None:
        self._catalog[name] = spec
        self._read = (None, dict(self._catalog))

    def __delitem__(self, name: str) -> None:
        del self._catalog[name]
        self._read = (None, dict(self._catalog))

    def __iter__(self) -> Iterator[str]:
        return iter(self._models())

    def __len__(self) -> int:
        return len(self._models())

    def _models(self) -> dict[str, ModelSpec]:
        stamp = _stamp(adopted_path(self._settings.home))
        if stamp != self._read[0]:
            tables = read_adopted(self._settings.home).models if stamp else {}
            adopted = {name: self._model(name, table) for name, table in tables.items() if name not in self._catalog}
            # One assignment, so that other threads see the old models or the new ones.
            self._read = (stamp, {**self._catalog, **{name: spec for name, spec in adopted.items() if spec}})
        return self._read[1]

    def _model(self, name: str, table: Mapping[str, Any]) -> ModelSpec | None:
        try:
            return self._described(name, table)
        except (SettingsError, AttributeError, TypeError, ValueError):  # its plugin is gone, or the list damaged
            return None

    def _described(self, name: str, table: Mapping[str, Any]) -> ModelSpec:
        known = {key: value for key, value in table.items() if key not in ("folder", "sizes")}
        if known.get("like") not in self._catalog:
            known.pop("like", None)
        models_dir = self._settings.models_path
        known["files"] = {key: _below(paths, models_dir) for key, paths in table.get("files", {}).items()}
        spec = user_model(name, known, self._settings, self._catalog)
        sizes = table.get("sizes", {})
        files = (
            attrs.evolve(file, size_bytes=sizes.get(str(models_dir / file.path), file.size_bytes))
            for file in spec.files
        )
        return attrs.evolve(spec, files=tuple(files))


def _below(paths: Any, models_dir: Path) -> Any:
    """Return paths relative to the models folder where they lie in it, as the catalog has them."""
    if isinstance(paths, list):
        return [_below(path, models_dir) for path in paths]
    path = Path(str(paths))
    return str(path.relative_to(models_dir)) if path.is_relative_to(models_dir) else str(paths)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size
