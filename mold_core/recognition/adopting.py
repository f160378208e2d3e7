"""Turn recognised files into models: name them and find their missing components. The files are not changed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from mold_core.catalog import ModelFile, ModelSpec, Signature
from mold_core.catalog.adopted import Adopted
from mold_core.plugins import Plugins
from mold_core.recognition.formats import tag_of
from mold_core.recognition.known import Knowledge
from mold_core.recognition.naming import free_name, model_name
from mold_core.recognition.recognised import Recognised
from mold_core.recognition.verdict import like_of
from mold_core.upscaling.loading import COMPONENT as UPSCALER_COMPONENT
from mold_core.upscaling.loading import FAMILY as UPSCALERS

__all__ = ["Found", "Plan", "plan_adoption"]

# Formats from the most exact to the least exact, to choose among several files of one component.
_EXACT_FIRST = ("fp32", "bf16", "fp16", "int8", "fp8")


@attrs.frozen
class Found:
    """Weights that a search found: what they are, the name of their file, and the folder that was searched."""

    recognised: Recognised
    name: str
    folder: str


@attrs.frozen(kw_only=True)
class Plan:
    """The result of adopting. `adopted` has all adopted models and LoRAs; the other fields classify each file.

    `models` and `loras` are the new ones by name. `components` complete models. `others` are recognised, but nothing
    installed runs them. `unknown` could not be recognised or read. `missing` are the components, by model, to download
    from the catalog.
    """

    adopted: Adopted
    models: Mapping[str, Found]
    loras: Mapping[str, Found]
    components: tuple[Found, ...]
    others: tuple[Found, ...]
    unknown: tuple[Found, ...]
    missing: Mapping[str, tuple[ModelFile, ...]]


def plan_adoption(
    found: Iterable[Found],
    before: Adopted,
    folders: Iterable[str],
    knowledge: Knowledge,
    plugins: Plugins,
    catalog: Mapping[str, ModelSpec],
) -> Plan:
    """Return the plan for the files that a search of `folders` found, given what was adopted `before`.

    `catalog` has the models of plugins and of config.toml, whose names are reserved. Models whose folder was not
    searched or is not reachable do not change.
    """
    return _Adoption(list(found), before, tuple(folders), knowledge, plugins, catalog).plan()


class _Adoption:
    """One call of `plan_adoption`."""

    def __init__(
        self,
        found: list[Found],
        before: Adopted,
        folders: tuple[str, ...],
        knowledge: Knowledge,
        plugins: Plugins,
        catalog: Mapping[str, ModelSpec],
    ) -> None:
        self._found = [item for item in found if item.recognised.paths[0] not in before.ignored]
        self._before = before
        self._folders = folders
        self._knowledge = knowledge
        self._plugins = plugins
        self._catalog = catalog
        self._providers = list(self._components())
        self._names = {_key(table): name for name, table in before.models.items()}

    def plan(self) -> Plan:
        kept_models, kept_loras = self._kept()
        models, loras = dict(kept_models), dict(kept_loras)
        new_models: dict[str, Found] = {}
        new_loras: dict[str, Found] = {}
        sorted_out: dict[str, list[Found]] = {"component": [], "other": [], "unknown": []}
        for item in sorted(self._found, key=lambda item: item.recognised.paths):
            table, kind = self._table(item)
            if table is not None:
                name = self._name_of(item, table, models)
                models[name] = table
                new_models[name] = item
            elif kind == "lora":
                name = self._lora_name(item, loras)
                loras[name] = item.recognised.paths[0]
                new_loras[name] = item
            else:
                sorted_out[kind].append(item)
        adopted = Adopted(
            folders=tuple(dict.fromkeys((*self._before.folders, *self._folders))),
            models=models,
            loras=loras,
            ignored=self._before.ignored,
        )
        return Plan(
            adopted=adopted,
            models=new_models,
            loras=new_loras,
            components=tuple(sorted_out["component"]),
            others=tuple(sorted_out["other"]),
            unknown=tuple(sorted_out["unknown"]),
            missing={name: tuple(self._missing(models[name])) for name in new_models},
        )

    # --- one file ------------------------------------------------------------------------------------------------

    def _table(self, item: Found) -> tuple[dict[str, Any] | None, str]:
        """Return the table of a file's model, or None and the file's class."""
        recognised, network = item.recognised, item.recognised.main
        if network is None or recognised.problem or not recognised.known:
            return None, "unknown"
        # Servers show descriptions to clients, which must not contain paths.
        about = f"{recognised.title}; adopted from {Path(item.folder).name}"
        if network.kind == "upscaler":
            files = {UPSCALER_COMPONENT: recognised.paths[0]}
            return _with_sizes(
                {"family": UPSCALERS, "description": about, "files": files, "folder": item.folder}
            ), "model"
        runs = network.family in self._plugins.families
        if network.kind == "LoRA":
            return None, "lora" if runs else "other"
        signature = self._knowledge.signature(network.signature)
        like = like_of(signature, recognised) if signature else None
        if runs and signature is not None and like in self._catalog:
            return self._model_table(item, signature, str(like), about), "model"
        return None, "component" if self._is_component(recognised) else "other"

    def _model_table(self, item: Found, signature: Signature, like: str, about: str) -> dict[str, Any]:
        component = signature.component or "transformer"
        files: dict[str, str | list[str]] = {component: _listed(item.recognised.paths)}
        for needed, names in signature.needs.items():
            provider = self._provider(item, needed, names, like)
            if provider is not None:
                files[needed] = _listed(provider.recognised.paths)
        return _with_sizes(
            {
                **({"defaults": signature.defaults} if signature.defaults else {}),
                "like": like,
                "family": signature.family,
                "description": about,
                "files": files,
                "folder": item.folder,
            }
        )

    def _provider(self, item: Found, component: str, names: tuple[str, ...], like: str) -> Found | None:
        """Return the file that provides a component: the same file, or the best one found."""
        inside = {network.signature for network in item.recognised.networks}
        if inside & set(names):
            return item
        fitting = [
            provider
            for provider in self._providers
            if provider.recognised.main and provider.recognised.main.signature in names
        ]
        expected = {
            value
            for file in self._catalog[like].files
            if file.component == component
            for value in (file.filename, file.size_bytes)
            if value
        }
        return max(fitting, key=lambda provider: _fitness(provider, item, expected), default=None)

    def _components(self) -> Iterator[Found]:
        """Yield the files with one network that could complete a model."""
        for item in self._found:
            if len(item.recognised.networks) == 1 and item.recognised.known and not item.recognised.problem:
                yield item

    def _is_component(self, recognised: Recognised) -> bool:
        """Return whether models of installed plugins accept a file as a component."""
        found = {network.signature for network in recognised.networks}
        return any(
            found & set(names)
            for signature in self._knowledge.signatures
            if signature.family in self._plugins.families
            for names in signature.needs.values()
        )

    # --- names ---------------------------------------------------------------------------------------------------

    def _name_of(self, item: Found, table: Mapping[str, Any], models: Mapping[str, Any]) -> str:
        before = self._names.get(_key(table))
        if before is not None and before not in self._catalog:
            return before
        network = item.recognised.main
        name = model_name(item.name, tag_of(network.format if network else ""))
        return free_name(name, {*self._catalog, *models, *self._before.models})

    def _lora_name(self, item: Found, loras: Mapping[str, str]) -> str:
        path = item.recognised.paths[0]
        for name, known in self._before.loras.items():
            if known == path:
                return name
        return free_name(item.name, {*loras, *self._before.loras})

    # --- what was adopted before ---------------------------------------------------------------------------------

    def _kept(self) -> tuple[dict[str, Mapping[str, Any]], dict[str, str]]:
        """Return the models and LoRAs that this search does not affect."""
        searched = [folder for folder in self._folders if any(item.folder == folder for item in self._found)]
        models = {
            name: table
            for name, table in self._before.models.items()
            if not _is_below(_key(table), searched) and table.get("folder") not in searched
        }
        loras = {name: path for name, path in self._before.loras.items() if not _is_below(path, searched)}
        return models, loras

    def _missing(self, table: Mapping[str, Any]) -> Iterator[ModelFile]:
        """Yield the files that a model still needs from the catalog, except those that plugins include."""
        like = self._catalog.get(str(table.get("like")))
        if like is not None and like.root is None:
            yield from (file for file in like.files if file.component not in table["files"])


def _fitness(provider: Found, item: Found, expected: set[Any]) -> tuple[object, ...]:
    """Return a sort key of how well a file completes a model: catalog file, same folder, exact format, plain name."""
    paths, network = provider.recognised.paths, provider.recognised.main
    stem = Path(paths[0]).name
    tag = tag_of(network.format) if network else ""
    exact = -_EXACT_FIRST.index(tag) if tag in _EXACT_FIRST else -len(_EXACT_FIRST)
    catalogued = (provider.recognised.size_bytes in expected) + (stem in expected)
    near = len(os.path.commonpath([paths[0], item.recognised.paths[0]])) if provider.folder == item.folder else 0
    return catalogued, provider.folder == item.folder, near, exact, -len(stem), stem


def _with_sizes(table: dict[str, Any]) -> dict[str, Any]:
    """Return a model with the sizes of its files, which listings show even if a drive is disconnected."""
    sizes = {}
    for paths in table["files"].values():
        for path in [paths] if isinstance(paths, str) else paths:
            with suppress(OSError):
                sizes[path] = os.path.getsize(path)
    return {**table, "sizes": sizes}


def _listed(paths: tuple[str, ...]) -> str | list[str]:
    return paths[0] if len(paths) == 1 else list(paths)


def _key(table: Mapping[str, Any]) -> str:
    """Return the file that identifies a model: the first of its table."""
    first = next(iter(table.get("files", {}).values()), "")
    return str(first if isinstance(first, str) else first[0])


def _is_below(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip(os.sep) + os.sep) for folder in folders)
