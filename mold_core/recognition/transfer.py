"""Copies or links the files of adopted models into the models folder, for `mold adopt --copy` and `--link`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import attrs

from mold_core.files import output_error, write_whole
from mold_core.recognition.adopting import Plan
from mold_core.wire import Info, ProgressEvent

__all__ = ["transferred"]

_PIECE_BYTES = 1 << 20


def transferred(plan: Plan, models_dir: Path, *, copy: bool, report: Callable[[ProgressEvent], object]) -> Plan:
    """Return the plan with the files of its new models in the models folder: copied, or as symbolic links.

    A file that is there with the same size is not copied again. Raises OutputError.
    """
    models = dict(plan.adopted.models)
    for name in plan.models:
        folder = models_dir / name.replace(":", "-")
        files = {
            component: _transferred(paths, folder, copy=copy, report=report)
            for component, paths in models[name]["files"].items()
        }
        models[name] = {**models[name], "files": files}
    return attrs.evolve(plan, adopted=attrs.evolve(plan.adopted, models=models))


def _transferred(
    paths: str | list[str], folder: Path, *, copy: bool, report: Callable[[ProgressEvent], object]
) -> str | list[str]:
    if not isinstance(paths, str):
        return [str(_one(Path(path), folder, copy=copy, report=report)) for path in paths]
    return str(_one(Path(paths), folder, copy=copy, report=report))


def _one(source: Path, folder: Path, *, copy: bool, report: Callable[[ProgressEvent], object]) -> Path:
    target = folder / source.name
    if source == target or (target.is_file() and target.stat().st_size == source.stat().st_size):
        return target
    report(Info(message=f"{'copying' if copy else 'linking'} {source.name}"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if copy:
            with source.open("rb") as file:
                write_whole(target, lambda out: shutil.copyfileobj(file, out, _PIECE_BYTES))
        else:
            target.unlink(missing_ok=True)
            os.symlink(source, target)
    except OSError as error:
        raise output_error(target, error) from error
    return target
