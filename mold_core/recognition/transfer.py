"""Copy or link the files of adopted models into the models folder, for `mold adopt --copy` and `--link`."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs

from mold_core.files import output_error, write_whole
from mold_core.recognition.adopting import Plan
from mold_core.wire import Info, ProgressEvent

__all__ = ["transferred"]

_PIECE_BYTES = 1 << 20


def transferred(plan: Plan, models_dir: Path, *, copy: bool, report: Callable[[ProgressEvent], object]) -> Plan:
    """Copy or symlink the files of a plan's new models into the models folder, and return the updated plan.

    A file of the same size in the target is not copied again. Links are replaced by copies. Raises OutputError.
    """
    models = dict(plan.adopted.models)
    for name in plan.models:
        folder = models_dir / name.replace(":", "-")
        files = {
            component: _transferred(paths, part, copy=copy, report=report)
            for component, paths, part in _with_folders(models[name]["files"], folder)
        }
        models[name] = {**models[name], "files": files}
    return attrs.evolve(plan, adopted=attrs.evolve(plan.adopted, models=models))


def _with_folders(files: Mapping[str, str | list[str]], folder: Path) -> Iterator[tuple[str, str | list[str], Path]]:
    """Yield components with their files and folder: a separate folder if files of other components have the same names.

    For example, ``transformer/`` and ``vae/`` of diffusers both have a diffusion_pytorch_model.safetensors.
    """
    sources: dict[str, set[str]] = defaultdict(set)
    for paths in files.values():
        for path in [paths] if isinstance(paths, str) else paths:
            sources[Path(path).name].add(path)
    for component, paths in files.items():
        names = [Path(path).name for path in ([paths] if isinstance(paths, str) else paths)]
        yield component, paths, folder if all(len(sources[name]) == 1 for name in names) else folder / component


def _transferred(
    paths: str | list[str], folder: Path, *, copy: bool, report: Callable[[ProgressEvent], object]
) -> str | list[str]:
    if not isinstance(paths, str):
        return [str(_one(Path(path), folder, copy=copy, report=report)) for path in paths]
    return str(_one(Path(paths), folder, copy=copy, report=report))


def _one(source: Path, folder: Path, *, copy: bool, report: Callable[[ProgressEvent], object]) -> Path:
    target = folder / source.name
    try:
        if _is_there(source, target, copy):
            return target
        report(Info(message=f"{'copying' if copy else 'linking'} {source.name}"))
        folder.mkdir(parents=True, exist_ok=True)
        if copy:
            with source.open("rb") as file:
                if target.is_symlink():  # otherwise its target would be overwritten
                    target.unlink()
                write_whole(target, lambda out: shutil.copyfileobj(file, out, _PIECE_BYTES))
        else:
            target.unlink(missing_ok=True)
            os.symlink(source, target)
    except OSError as error:
        raise output_error(target, error) from error
    return target


def _is_there(source: Path, target: Path, copy: bool) -> bool:
    if source.name == target.name and os.path.realpath(source.parent) == os.path.realpath(target.parent):
        return True
    if not target.is_file() or (copy and target.is_symlink()):
        return False
    return target.stat().st_size == source.stat().st_size
