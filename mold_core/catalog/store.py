"""The models folder: which files of a model are on this machine, and where."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import attrs

from mold_core.catalog.model import ModelFile, ModelSpec
from mold_core.errors import ModelNotFoundError
from mold_core.files import version_of

__all__ = ["LocalFiles", "ModelStore"]

PULL_MARKER = ".pulling"


@attrs.frozen
class LocalFiles:
    """The files of a model on disk, by component. A component may have several files (shards).

    `choices` has the existing alternatives for a component, best first, if the catalog lists any.
    """

    by_component: Mapping[str, tuple[Path, ...]]
    choices: Mapping[str, tuple[Path, ...]] = attrs.Factory(dict)

    def one(self, component: str) -> Path:
        """Return the only file of a component. Raises KeyError if there is none or more than one."""
        paths = self.by_component.get(component, ())
        if len(paths) != 1:
            raise KeyError(f"the model has {len(paths)} files of component {component!r}, not one")
        return paths[0]

    def versions(self) -> tuple[str, ...]:
        """Return for each file a text that changes when the file is replaced."""
        return tuple(version_of(path) for path in sorted(chain.from_iterable(self.by_component.values())))

    def size_bytes(self) -> int:
        """Return the size of all files on disk, in bytes."""
        return sum(path.stat().st_size for path in set(chain.from_iterable(self.by_component.values())))


@attrs.frozen
class ModelStore:
    """The folder of model files. Models that ship in a wheel are found in the wheel."""

    models_dir: Path

    def path_of(self, spec: ModelSpec, file: ModelFile) -> Path:
        """Return the path of a file, which need not exist."""
        return (spec.root or self.models_dir) / file.path

    def is_elsewhere(self, path: Path) -> bool:
        """Return whether a file is outside of the models folder, where mold neither writes nor deletes."""
        return not path.parent.resolve().is_relative_to(self.models_dir.resolve())

    def missing(self, spec: ModelSpec) -> tuple[ModelFile, ...]:
        """Return the missing files. While a pull of the model runs, all files count as missing."""
        if self._is_being_pulled(spec):
            return spec.files
        return tuple(file for file in spec.files if not self.choices(spec, file))

    def has(self, spec: ModelSpec) -> bool:
        """Return whether all files of the model are on disk."""
        return not self.missing(spec)

    def locate(self, spec: ModelSpec) -> LocalFiles:
        """Return the files of a model. Raises ModelNotFoundError that names the missing files."""
        missing = self.missing(spec)
        if missing:
            raise self._not_found(spec, missing)
        return self.files_of(spec)

    def files_of(self, spec: ModelSpec) -> LocalFiles:
        """Return the paths of a model's files, which need not exist."""
        found: dict[str, tuple[Path, ...]] = {}
        choices: dict[str, tuple[Path, ...]] = {}
        for file in spec.files:
            here = self.choices(spec, file) if file.instead else ()
            best = here[0] if here else self.path_of(spec, file)
            found[file.component] = (*found.get(file.component, ()), best)
            if here:
                choices[file.component] = here
        return LocalFiles(found, choices)

    def choices(self, spec: ModelSpec, file: ModelFile) -> tuple[Path, ...]:
        """Return the existing files among a file and its alternatives, best first."""
        folder = spec.root or self.models_dir
        return tuple(path for path in (folder / name for name in (file.path, *file.instead)) if _is_here(path))

    def marker_of(self, spec: ModelSpec) -> Path:
        """Return the path of the file that exists while a model is being pulled."""
        return self.models_dir / spec.name.replace(":", "-") / PULL_MARKER

    def _is_being_pulled(self, spec: ModelSpec) -> bool:
        return not spec.embedded and self.marker_of(spec).exists()

    def away(self, spec: ModelSpec) -> tuple[ModelFile, ...]:
        """Return the files outside of the models folder that cannot be reached: their drive may not be mounted."""
        return tuple(
            file
            for file in spec.files
            if not file.repo and Path(file.path).is_absolute() and not self.choices(spec, file)
        )

    def _not_found(self, spec: ModelSpec, missing: tuple[ModelFile, ...]) -> ModelNotFoundError:
        away = self.away(spec)
        if away:
            return ModelNotFoundError(
                "%s of model %r cannot be found: its drive is not mounted, or the file was moved",
                Path(away[0].path),
                spec.name,
                field="model",
                value=spec.name,
                hint=f"mount the drive, or mold adopt forget {spec.name}",
            )
        gigabytes = sum(file.size_bytes or 0 for file in missing) / 1e9
        first = self.path_of(spec, missing[0])
        return ModelNotFoundError(
            f"model %r is not downloaded: {len(missing)} of {len(spec.files)} files ({gigabytes:.1f} GB) "
            "are missing, the first is %s",
            spec.name,
            first,
            field="model",
            value=spec.name,
            hint=f"download them: mold pull {spec.name}",
        )


def _is_here(path: Path) -> bool:
    """Say whether there is a file, or a folder with weights, which stands for one (see `mold_core.weights.shards`)."""
    # NOTE: os.path says no for what cannot be looked at; pathlib raises.
    return os.path.isfile(path) or (os.path.isdir(path) and any(path.glob("*.safetensors")))
