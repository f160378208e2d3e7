"""What mold finds: the family `flux` and the catalog of FLUX.1 models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mold_core import hookimpl

if TYPE_CHECKING:
    from mold_core import ModelFamily, ModelSpec, Signature

__all__ = ["mold_families", "mold_models", "mold_signatures"]

CATALOG = Path(__file__).parent / "catalog.toml"
SIGNATURES = Path(__file__).parent / "signatures.toml"


@hookimpl
def mold_families() -> list[ModelFamily]:
    """Bring FLUX.1."""
    from mold_flux.family import FluxFamily

    return [FluxFamily()]


@hookimpl
def mold_models() -> list[ModelSpec]:
    """Bring the FLUX.1 checkpoints that people use."""
    from mold_core import read_catalog

    return read_catalog(CATALOG)


@hookimpl
def mold_signatures() -> list[Signature]:
    """Bring the layouts of FLUX.1 in files."""
    from mold_core import read_signatures

    return read_signatures(SIGNATURES)
