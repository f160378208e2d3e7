"""What mold finds: the architectures of Real-ESRGAN, the catalog of its models, and its files in the format of ncnn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mold_core import hookimpl

if TYPE_CHECKING:
    from mold_core import ModelSpec, UpscalerArchitecture
    from mold_core.hookspecs import WeightLoader

__all__ = ["mold_loaders", "mold_models", "mold_upscalers"]

CATALOG = Path(__file__).parent / "catalog.toml"


@hookimpl
def mold_upscalers() -> list[UpscalerArchitecture]:
    """Return RRDBNet and SRVGGNetCompact."""
    from mold_esrgan.architectures import RRDB, Compact

    return [RRDB(), Compact()]


@hookimpl
def mold_loaders() -> list[WeightLoader]:
    """Read .param and .bin files of ncnn."""
    from mold_esrgan.ncnn_files import NcnnLoader

    return [NcnnLoader()]


@hookimpl
def mold_models() -> list[ModelSpec]:
    """Return the popular Real-ESRGAN models."""
    from mold_core import read_catalog

    return read_catalog(CATALOG)
