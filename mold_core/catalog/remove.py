"""Takes a model off the disk, and nothing else: what others need stays, and so does what lies elsewhere."""

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

    Raises ValidationError for a model that is part of mold, ModelNotFoundError for one that is not here.
    """
    if spec.embedded:
        raise ValidationError(f"{spec.name} is part of mold and cannot be removed", field="model", value=spec.name)
    check_paths(spec, store)
    files: list[Path] = []
    kept: list[KeptFile] = []
    for path, file in {store.path_of(spec, file): file for file in spec.files}.items():
        if not path.is_symlink() and not path.is_file():
            continue
        why = _why_it_stays(spec, file, path, catalog, store)
        if why:
            kept.append(KeptFile(path=str(path), why=why))
        else:
            files.append(path)
    files += _beginnings(spec, store)
    if not files and not kept:
        raise ModelNotFoundError(f"nothing of {spec.name} is downloaded", field="model", value=spec.name)
    going = tuple(RemovedFile(path=str(path), size_bytes=path.lstat().st_size) for path in files)
    return Removal(model=spec.name, files=going, size_bytes=sum(map(_freed_bytes, files)), kept=tuple(kept))


def remove(spec: ModelSpec, catalog: Mapping[str, ModelSpec], store: ModelStore) -> Removal:
    """Delete a model's files, but for those that others need; return what was deleted.

    While it happens the model counts as not here. Raises what `plan_removal` raises, ValidationError while a pull of
    the model runs, and OutputError when the disk refuses.
    """
    planned = plan_removal(spec, catalog, store)
    with holding(store.marker_of(spec), alone=True) as ours:
        if not ours:
            raise ValidationError(
                f"{spec.name} is being pulled right now", field="model", value=spec.name, hint="end the pull first"
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
                folder.rmdir()  # only if nothing is left in it
    return planned


def needed_by(path: Path, models: Iterable[ModelSpec], store: ModelStore) -> Iterator[ModelSpec]:
    """Yield those of the models that are here, or on their way, and use a file."""
    for spec in models:
        if spec.embedded or spec.part_of is not None or not (store.has(spec) or store.marker_of(spec).exists()):
            continue
        if any(_uses(spec, file, path, store) for file in spec.files):
            yield spec


def _uses(spec: ModelSpec, file: ModelFile, path: Path, store: ModelStore) -> bool:
    return store.path_of(spec, file) == path or store.choices(spec, file)[:1] == (path,)


def _why_it_stays(
    spec: ModelSpec, file: ModelFile, path: Path, catalog: Mapping[str, ModelSpec], store: ModelStore
) -> str | None:
    if store.is_elsewhere(path):
        return "lies outside of the models folder"
    others = [other for other in catalog.values() if other.name != spec.name]
    users = list(needed_by(path, others, store))
    if spec.part_of is not None:  # a part goes when every model that uses it has another one to use
        users = [user for user in users if not _has_another(user, path, store)]
    return f"{users[0].name} needs it" if users else None


def _has_another(user: ModelSpec, path: Path, store: ModelStore) -> bool:
    return all(len(store.choices(user, file)) > 1 for file in user.files if path in store.choices(user, file))


def _beginnings(spec: ModelSpec, store: ModelStore) -> list[Path]:
    """Return the parts of files that an interrupted pull of the model left."""
    found = []
    for file in spec.files:
        if file.repo and file.sha256 and not file.path.startswith("shared/"):
            folder = store.models_dir / CACHE_NAME / f"models--{file.repo.replace('/', '--')}" / "blobs"
            part = folder / f"{file.sha256.lower()}.incomplete"
            if part.is_file() and not part.is_symlink():
                found.append(part)
    return found


def _freed_bytes(path: Path) -> int:
    status = path.lstat()
    return status.st_size if status.st_nlink == 1 else 0  # another name keeps the bytes


def _not_deleted(path: Path, error: OSError) -> OutputError:
    return output_error(path, error, "delete")
