"""The tiny LTX-2 as a catalog entry, and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltx2_files import CONFIGS, TEXT_TOKENS

from mold_core import LoadContext, LocalFiles, MemoryPlan, ModelSpec
from mold_core.catalog import ModelDefaults, ModelFile

__all__ = ["load", "spec_of"]


def spec_of(files: dict[str, Path], **options: Any) -> ModelSpec:
    """Return a catalog entry for the files."""
    return ModelSpec(
        name="ltx-2-tiny:fp32",
        family="ltx2",
        description="Random weights",
        defaults=ModelDefaults(width=64, height=32, steps=4, guidance=3.0, frames=17, fps=25),
        files=tuple(ModelFile(component=name, path=str(path)) for name, path in files.items()),
        options={
            **CONFIGS,
            "dtype": "float32",
            "text_tokens": TEXT_TOKENS,
            "distilled": True,
            "sizes": {"multiple": 8, "min_side": 16, "max_pixels": 20_000, "recommended": [[64, 32]]},
            **options,
        },
    )


def load(files: Mapping[str, Path | tuple[Path, ...]], *, plan: MemoryPlan | None = None, **options: Any) -> Any:
    """Return the pipeline that the family loads from the files, one or several of a component."""
    from mold_ltx2.family import Ltx2Family

    context = LoadContext(device="cpu", threads=1, cache_dir=Path("/nowhere"), report=lambda event: None, plan=plan)
    paths = {name: path if isinstance(path, tuple) else (path,) for name, path in files.items()}
    spec = spec_of({name: several[0] for name, several in paths.items()}, **options)
    return Ltx2Family().load(spec, LocalFiles(paths), context)
