"""The hooks of mold-ltx2: the family, its models and its chain renderer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mold_core import hookimpl

if TYPE_CHECKING:
    from mold_core import ModelSpec, Signature
    from mold_ltx2.chain import Ltx2ChainRenderer
    from mold_ltx2.family import Ltx2Family

__all__ = ["mold_chain_renderers", "mold_families", "mold_models", "mold_signatures"]

CATALOG = Path(__file__).parent / "catalog.toml"
SIGNATURES = Path(__file__).parent / "signatures.toml"


@hookimpl
def mold_families() -> list[Ltx2Family]:
    """Return the family `ltx2`."""
    from mold_ltx2.family import Ltx2Family

    return [Ltx2Family()]


@hookimpl
def mold_chain_renderers() -> list[Ltx2ChainRenderer]:
    """Return the chain renderer of `ltx2`."""
    from mold_ltx2.chain import Ltx2ChainRenderer

    return [Ltx2ChainRenderer()]


@hookimpl
def mold_models() -> list[ModelSpec]:
    """Return the published models."""
    from mold_core import read_catalog

    return read_catalog(CATALOG)


@hookimpl
def mold_signatures() -> list[Signature]:
    """Bring the layouts of LTX-2 in files."""
    from mold_core import read_signatures

    return read_signatures(SIGNATURES)
