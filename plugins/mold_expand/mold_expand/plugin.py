"""The hooks of mold-expand: the expanders `local` and `endpoint`, and the language models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mold_core import hookimpl

if TYPE_CHECKING:
    from mold_core import ModelSpec, PromptExpander

__all__ = ["mold_expanders", "mold_models"]

CATALOG = Path(__file__).parent / "catalog.toml"


@hookimpl
def mold_expanders() -> list[PromptExpander]:
    """Return the expanders: a language model on this machine, and an OpenAI-compatible server."""
    from mold_expand.local import LocalExpander
    from mold_expand.remote import EndpointExpander

    return [LocalExpander(), EndpointExpander()]


@hookimpl
def mold_models() -> list[ModelSpec]:
    """Return two sizes of Qwen3."""
    from mold_core import read_catalog

    return read_catalog(CATALOG)
