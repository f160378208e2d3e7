"""Deletes the files of a model, except those that other models need and those outside of the models folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from mold_core.catalog.details import KeptFile, Removal, RemovedFile
from mold_core.catalog.marker import holding
from mold_core.catalog.model import ModelFile, ModelSpec
from mold_core.catalog.pull import CACHE_NAME, check_paths
from mold_core.catalog.store import ModelStore
from mold_core.errors import ModelNotFoundError, OutputError, ValidationError
from mold_core.files import output_error

__all__ = ["needed_by", "plan_removal", "remove"]


def plan_removal(spec: ModelSpec, catalog: Mapping[str, ModelSpec], store: ModelStore) -> Removal:
    """Return what removing a model would delete.

    Raises ValidationError for a model that ships with a plugin, ModelNotFoundError for one that is not downloaded.
    """
    if spec.embedded:
        raise ValidationError(f"{spec.name} ships with mold and cannot be removed", field="model", value=spec.name)
    check_paths(spec, store)
    files: list[Path] = []
    kept: list[KeptFile] = []
    for path, file in {store.path_of(spec, file): file for file in spec.files}.items():
        if not path.is_symlink() and not path.is_file():
            continue
        why = _reason_to_keep(spec, file, path, catalog, store)
        if why:
            kept.append(KeptFile(path=str(path), why=why))
        else:
            files.append(path)
    files += _partial_files(spec, store)
    if not files and not kept:
        raise ModelNotFoundError(f"{spec.name} is not downloaded", field="model", value=spec.name)
    removed = tuple(RemovedFile(path=str(path), size_bytes=path.lstat().st_size) for path in files)
    return Removal(model=spec.name, files=removed, size_bytes=sum(map(_freed_bytes, files)), kept=tuple(kept))


def remove(spec: ModelSpec, catalog: Mapping[str, ModelSpec], store: ModelStore) -> Removal:
    """Delete the files of a model, except those that other models need. Returns what was deleted.

    During the deletion the model counts as not downloaded. Raises what `plan_removal` raises, ValidationError while a
    pull of the model runs, and OutputError if a file cannot be deleted.
    """
    planned = plan_removal(spec, catalog, store)
    with holding(store.marker_of(spec), exclusive=True) as locked:
        if not locked:
            raise ValidationError(
                f"{spec.name} is being pulled", field="model", value=spec.name, hint="cancel the pull first"
            )
        planned = plan_removal(spec, catalog, store)
        paths = [Path(file.path) for file in planned.files]
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _not_deleted(path, error) from error
    for folder in {store.marker_of(spec).parent, *(path.parent for path in paths)}:
        if folder != store.models_dir:
            with suppress(OSError):
                folder.rmdir()  # fails unless the folder is empty
    return planned


def needed_by(path: Path, models: Iterable[ModelSpec], store: ModelStore) -> Iterator[ModelSpec]:
    """Yield the models that use a file and are downloaded or being pulled."""
    for spec in models:
        if spec.embedded or spec.part_of is not None or not (store.has(spec) or store.marker_of(spec).exists()):
            continue
        if any(_uses(spec, file, path, store) for file in spec.files):
            yield spec


def _uses(spec: ModelSpec, file: ModelFile, path: Path, store: ModelStore) -> bool:
    return store.path_of(spec, file) == path or store.choices(spec, file)[:1] == (path,)


def _reason_to_keep(
    spec: ModelSpec, file: ModelFile, path: Path, catalog: Mapping[str, ModelSpec], store: ModelStore
) -> str | None:
    if store.is_elsewhere(path):
        return "is outside of the models folder"
    others = [other for other in catalog.values() if other.name != spec.name]
    users = list(needed_by(path, others, store))
    if spec.part_of is not None:  # a component may go if every model that uses it can use another file
        users = [user for user in users if not _has_alternative(user, path, store)]
    return f"{users[0].name} needs it" if users else None


def _has_alternative(user: ModelSpec, path: Path, store: ModelStore) -> bool:
    return all(len(store.choices(user, file)) > 1 for file in user.files if path in store.choices(user, file))


def _partial_files(spec: ModelSpec, store: ModelStore) -> list[Path]:
    """Return the partial files that an interrupted pull of the model left."""
    found = []
    for file in spec.files:
        if file.repo and file.sha256 and not file.path.startswith("shared/"):
            folder = store.models_dir / CACHE_NAME / f"models--{file.repo.replace('/', '--')}" / "blobs"
            partial = folder / f"{file.sha256.lower()}.incomplete"
            if partial.is_file() and not partial.is_symlink():
                found.append(partial)
    return found


def _freed_bytes(path: Path) -> int:
    status = path.lstat()
    return status.st_size if status.st_nlink == 1 else 0  # another hard link keeps the bytes


def _not_deleted(path: Path, error: OSError) -> OutputError:
    return output_error(path, error, "delete")
