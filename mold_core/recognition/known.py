"""All signatures: those of plugins, and a table of networks that mold can name but not run."""

from __future__ import annotations

import hashlib
import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from mold_core.catalog.signature import Signature, read_signatures

if TYPE_CHECKING:
    from mold_core.hookspecs import UpscalerArchitecture, WeightLoader
    from mold_core.plugins import Plugins

__all__ = ["Knowledge", "knowledge_of"]

# Increase it when a change of recognition affects its results.
_FORMAT = 1

TABLE = Path(__file__).parent / "known.toml"


@attrs.frozen
class Knowledge:
    """The signatures to compare files with. Those of plugins come first, and win ties."""

    signatures: tuple[Signature, ...]
    prefixes: tuple[str, ...]
    upscalers: tuple[UpscalerArchitecture, ...] = ()
    loaders: tuple[WeightLoader, ...] = ()

    @property
    def version(self) -> str:
        """A digest of all signatures. Results of another version must be recomputed."""
        plugins = [*(item.name for item in self.upscalers), *(item.name for item in self.loaders)]
        names = repr((_FORMAT, self.signatures, self.prefixes, plugins))
        return hashlib.sha256(names.encode()).hexdigest()[:16]

    def signature(self, name: str) -> Signature | None:
        """Return the signature with a name."""
        return next((signature for signature in self.signatures if signature.name == name), None)


def knowledge_of(plugins: Plugins) -> Knowledge:
    """Return the signatures of the plugins and of the table, and the upscalers of the plugins."""
    declared: dict[str, Signature] = dict(plugins.items.get("mold_signatures", {}))
    table, prefixes = _table()
    others = tuple(signature for signature in table if signature.name not in declared)
    return Knowledge((*declared.values(), *others), prefixes, tuple(plugins.upscalers.values()), plugins.loaders)


@cache
def _table() -> tuple[tuple[Signature, ...], tuple[str, ...]]:
    prefixes = tomllib.loads(TABLE.read_text("utf-8"))["prefixes"]
    return tuple(read_signatures(TABLE)), tuple(sorted(prefixes, key=len, reverse=True))
