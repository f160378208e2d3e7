"""User-defined models: `[models."name:tag"]` in config.toml, with files anywhere on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from mold_core.catalog.model import ModelDefaults, ModelFile, ModelSpec
from mold_core.catalog.names import nearest_names
from mold_core.errors import SettingsError, ValidationError
from mold_core.settings import Settings
from mold_core.wire.convert import from_json

__all__ = ["user_model", "user_models"]

_KEYS = ("like", "family", "description", "licence", "files", "defaults", "options", "placement")


def user_models(settings: Settings, catalog: Mapping[str, ModelSpec]) -> dict[str, ModelSpec]:
    """Return the models that config.toml describes, by full name.

    Missing keys are copied from the model of the catalog named by `like`, or of the same name. `files` has paths
    by component: absolute, below ``~``, or relative to the models folder. A table with only a `placement` defines no
    model but places one of the catalog. Raises SettingsError that names the model.
    """
    return {
        name.lower(): user_model(name.lower(), table, settings, catalog)
        for name, table in settings.user_models.items()
        if not (isinstance(table, Mapping) and table.keys() == {"placement"})
    }


def user_model(name: str, table: Any, settings: Settings, catalog: Mapping[str, ModelSpec]) -> ModelSpec:
    """Return the model that a table of config.toml defines. Raises SettingsError."""

    def wrong(problem: str, hint: str | None = None) -> SettingsError:
        return SettingsError("%s: models.%r %s", settings.config_path, name, problem, field=f"models.{name}", hint=hint)

    if not isinstance(table, Mapping):
        raise wrong("must be a table")
    unknown = ", ".join(sorted(table.keys() - set(_KEYS)))
    if unknown:
        raise wrong(f"has unknown keys {unknown}", hint=f"known: {', '.join(_KEYS)}")
    base, _, tag = name.partition(":")
    if not base or not tag:
        raise wrong("must have a tag in its name", hint=f"such as {base or 'mine'}:bf16")
    like = table.get("like", name)
    if "like" in table and like not in catalog:
        near = ", ".join(nearest_names(str(like), catalog))
        raise wrong(f"has like = {like!r}, which is not a model", hint=f"nearest: {near}" if near else "see mold list")
    model = catalog.get(like) or ModelSpec(name=name, family="")
    try:
        return attrs.evolve(
            model,
            name=name,
            root=None,
            family=_text(table, "family", model.family),
            description=_text(table, "description", model.description),
            licence=_text(table, "licence", model.licence),
            defaults=_defaults(table.get("defaults", {}), model.defaults),
            files=_files(table.get("files", {}), model, settings.models_path),
            options={**model.options, **_table(table.get("options", {}), "options")},
        )
    except ValidationError as error:
        raise wrong(str(error)) from None


def _files(paths: Any, model: ModelSpec, models_dir: Path) -> tuple[ModelFile, ...]:
    """Return a model's files with those of some components replaced. Files in a wheel get absolute paths."""
    replaced: dict[str, tuple[str, ...]] = {}
    for component, value in _table(paths, "files").items():
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not listed or not all(isinstance(path, str) and path for path in listed):
            raise ValidationError(f"files.{component} must be a path, or a list of paths")
        replaced[component] = tuple(_path(path, models_dir) for path in listed)
    kept = [
        file if model.root is None else ModelFile(component=file.component, path=str(Path(model.root, file.path)))
        for file in model.files
        if file.component not in replaced
    ]
    added = [ModelFile(component=component, path=path) for component, paths in replaced.items() for path in paths]
    if not kept and not added:
        raise ValidationError("has no files", hint='add files by component, or like = "MODEL"')
    return (*added, *kept)


def _path(path: str, models_dir: Path) -> str:
    """Return a path relative to the models folder, or an absolute one if it is outside of it."""
    path = os.path.expanduser(path)
    return os.path.normpath(models_dir / path) if ".." in Path(path).parts else path


def _defaults(table: Any, defaults: ModelDefaults) -> ModelDefaults:
    parsed = from_json(ModelDefaults, _table(table, "defaults"), strict_keys=True)
    changes = {name: value for name, value in attrs.asdict(parsed).items() if value is not None}
    return attrs.evolve(defaults, **changes)


def _text(table: Mapping[str, Any], key: str, default: Any) -> Any:
    value = table.get(key, default)
    if key == "family" and not value:
        raise ValidationError(
            "needs a family", hint='add family = "NAME" (mold plugins lists families) or like = "MODEL"'
        )
    if value is not None and not isinstance(value, str):
        raise ValidationError(f"{key} must be text, not {value!r}")
    return value


def _table(value: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValidationError(f"{key} must be a table, not {value!r}")
    return value
