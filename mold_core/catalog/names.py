"""Resolves typed names to models: completes tags, and suggests the nearest names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from mold_core.catalog.model import ModelSpec
from mold_core.errors import UnknownModelError

__all__ = ["nearest_names", "resolve"]

# A name without a tag means the first of these tags that the catalog has.
_PREFERRED_TAGS = ("q8", "fp16", "bf16", "fp8")
_DASHED_TAG = re.compile(r"^(?P<base>.+)-(?P<tag>q\d{1,2})$")


def resolve(name: str, catalog: Mapping[str, ModelSpec]) -> ModelSpec:
    """Return the model for a name.

    A bare name gets the first of the tags q8, fp16, bf16, fp8 that exists, or its only tag. ``NAME-q4`` means
    ``NAME:q4``. Raises UnknownModelError with the nearest names.
    """
    normalized = name.strip().lower()
    if normalized in catalog:
        return catalog[normalized]
    dashed = _DASHED_TAG.match(normalized)
    if dashed and f"{dashed['base']}:{dashed['tag']}" in catalog:
        return catalog[f"{dashed['base']}:{dashed['tag']}"]
    tags = {spec.tag: spec for spec in catalog.values() if spec.base == normalized}
    for tag in _PREFERRED_TAGS:
        if tag in tags:
            return tags[tag]
    if tags:
        return tags[min(tags)]
    raise unknown_model(name, catalog)


def unknown_model(name: str, catalog: Iterable[str]) -> UnknownModelError:
    """Return the error for an unknown name, with the nearest names."""
    near = nearest_names(name, catalog)
    short = name if len(name) <= 80 else f"{name[:79]}…"
    message = f"unknown model {short!r}" + (f"; nearest: {', '.join(near)}" if near else "")
    return UnknownModelError(f"{message} (mold list shows all)", field="model", value=name)


def nearest_names(name: str, catalog: Iterable[str], limit: int = 3) -> list[str]:
    """Return up to `limit` full names that are similar to `name`, most similar first."""
    from difflib import SequenceMatcher  # slow to import, and names are usually correct

    normalized = name.strip().lower()[:80]
    base = normalized.partition(":")[0]

    def similarity(candidate: str) -> float:
        against_base = SequenceMatcher(None, base, candidate.partition(":")[0]).ratio()
        return against_base + SequenceMatcher(None, normalized, candidate).ratio() / 10

    ranked = sorted(catalog, key=lambda candidate: (-similarity(candidate), candidate))
    return [candidate for candidate in ranked if similarity(candidate) > 0.65][:limit]
