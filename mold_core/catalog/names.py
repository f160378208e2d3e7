"""From what a person types to a model: tags are completed, near misses are suggested."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from mold_core.catalog.model import ModelSpec
from mold_core.errors import UnknownModelError

__all__ = ["nearest_names", "resolve"]

# The tag that a bare name means: the first of these that the catalog has.
_PREFERRED_TAGS = ("q8", "fp16", "bf16", "fp8")
_DASHED_TAG = re.compile(r"^(?P<base>.+)-(?P<tag>q\d{1,2})$")


def resolve(name: str, catalog: Mapping[str, ModelSpec]) -> ModelSpec:
    """Return the model that `name` means.

    ``base:tag`` is taken as it is; a bare name gets the first of the tags q8, fp16, bf16, fp8 that exists, or its only
    tag; ``base-q4`` means ``base:q4``. Raises UnknownModelError with the nearest names.
    """
    wanted = name.strip().lower()
    if wanted in catalog:
        return catalog[wanted]
    dashed = _DASHED_TAG.match(wanted)
    if dashed and f"{dashed['base']}:{dashed['tag']}" in catalog:
        return catalog[f"{dashed['base']}:{dashed['tag']}"]
    tags = {spec.tag: spec for spec in catalog.values() if spec.base == wanted}
    for tag in _PREFERRED_TAGS:
        if tag in tags:
            return tags[tag]
    if tags:
        return tags[min(tags)]
    raise unknown_model(name, catalog)


def unknown_model(name: str, catalog: Iterable[str]) -> UnknownModelError:
    """Return the error for a name nobody knows, with the nearest names in it."""
    near = nearest_names(name, catalog)
    shown = name if len(name) <= 80 else f"{name[:79]}…"
    message = f"unknown model {shown!r}" + (f"; nearest: {', '.join(near)}" if near else "")
    return UnknownModelError(f"{message} (mold list shows all)", field="model", value=name)


def nearest_names(name: str, catalog: Iterable[str], limit: int = 3) -> list[str]:
    """Return up to `limit` full names like `name`, the nearest first."""
    from difflib import SequenceMatcher  # slow to import, and names are mostly right

    wanted = name.strip().lower()[:80]
    base = wanted.partition(":")[0]

    def likeness(candidate: str) -> float:
        against_base = SequenceMatcher(None, base, candidate.partition(":")[0]).ratio()
        return against_base + SequenceMatcher(None, wanted, candidate).ratio() / 10

    ranked = sorted(catalog, key=lambda candidate: (-likeness(candidate), candidate))
    return [candidate for candidate in ranked if likeness(candidate) > 0.65][:limit]
