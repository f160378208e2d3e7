"""The catalog of the embedded models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mold_core import hookimpl

if TYPE_CHECKING:
    from mold_core import ModelSpec

__all__ = ["mold_models"]

CATALOG = Path(__file__).parent / "models" / "catalog.toml"


@hookimpl
def mold_models() -> list[ModelSpec]:
    """Bring the models whose files lie beside this module."""
    from mold_core import read_catalog

    return read_catalog(CATALOG, embedded=True)
