"""Which files of a model are on this machine, and where."""

from __future__ import annotations

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
    """The files of a model on disk, by component; a component may have several (shards).

    `choices` has, for a component whose file others can stand in for, all of those that are here, best first.
    """

    by_component: Mapping[str, tuple[Path, ...]]
    choices: Mapping[str, tuple[Path, ...]] = attrs.Factory(dict)

    def one(self, component: str) -> Path:
        """Return the only file of a component. Raises KeyError if the model has none or several."""
        paths = self.by_component.get(component, ())
        if len(paths) != 1:
            raise KeyError(f"the model has {len(paths)} files of component {component!r}, not one")
        return paths[0]

    def versions(self) -> tuple[str, ...]:
        """Return what tells each of these files from others of its name."""
        return tuple(version_of(path) for path in sorted(chain.from_iterable(self.by_component.values())))

    def size_bytes(self) -> int:
        """Return the size of all files on disk, in bytes."""
        return sum(path.stat().st_size for path in set(chain.from_iterable(self.by_component.values())))


@attrs.frozen
class ModelStore:
    """The folder of model files. Models inside a wheel are found there and need no folder."""

    models_dir: Path

    def path_of(self, spec: ModelSpec, file: ModelFile) -> Path:
        """Return where a file lies or would lie."""
        return (spec.root or self.models_dir) / file.path

    def is_elsewhere(self, path: Path) -> bool:
        """Say whether a file lies outside of the models folder, where mold neither writes nor deletes."""
        return not path.parent.resolve().is_relative_to(self.models_dir.resolve())

    def missing(self, spec: ModelSpec) -> tuple[ModelFile, ...]:
        """Return the files that are not here; a pull in progress counts as nothing here yet."""
        if self._is_being_pulled(spec):
            return spec.files
        return tuple(file for file in spec.files if not self.choices(spec, file))

    def has(self, spec: ModelSpec) -> bool:
        """Say whether every file of the model is here."""
        return not self.missing(spec)

    def locate(self, spec: ModelSpec) -> LocalFiles:
        """Return the files of a model. Raises ModelNotFoundError that names what is missing."""
        missing = self.missing(spec)
        if missing:
            raise self._not_found(spec, missing)
        return self.files_of(spec)

    def files_of(self, spec: ModelSpec) -> LocalFiles:
        """Return where the files of a model lie or would lie."""
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
        """Return which of a file and those that can stand in for it are here, best first."""
        folder = spec.root or self.models_dir
        return tuple(path for path in (folder / name for name in (file.path, *file.instead)) if path.exists())

    def marker_of(self, spec: ModelSpec) -> Path:
        """Return the file that stands as long as a model is being pulled."""
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
            hint=f"mold pull {spec.name} fetches them",
        )
