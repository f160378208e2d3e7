"""What mold finds: the architectures of Real-ESRGAN and the catalog of its models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mold_core import hookimpl

if TYPE_CHECKING:
    from mold_core import ModelSpec, UpscalerArchitecture

__all__ = ["mold_models", "mold_upscalers"]

CATALOG = Path(__file__).parent / "catalog.toml"


@hookimpl
def mold_upscalers() -> list[UpscalerArchitecture]:
    """Bring RRDBNet and SRVGGNetCompact."""
    from mold_esrgan.architectures import RRDB, Compact

    return [RRDB(), Compact()]


@hookimpl
def mold_models() -> list[ModelSpec]:
    """Bring the Real-ESRGAN models that people use."""
    from mold_core import read_catalog

    return read_catalog(CATALOG)
