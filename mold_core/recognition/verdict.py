"""Decide whether mold can use recognised weights, with which family, and which components are missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs

from mold_core.catalog import ModelSpec, ModelStore, Signature
from mold_core.errors import CheckpointError
from mold_core.plugins import Plugins
from mold_core.recognition.known import Knowledge
from mold_core.recognition.recognised import Network, Recognised
from mold_core.weights import open_weights

__all__ = ["NeededComponent", "Verdict", "like_of", "verdict_on"]


@attrs.frozen(kw_only=True)
class NeededComponent:
    """A component that a model needs in addition to a file. `path` is None if it is missing.

    `source` is its origin: the repository in the catalog, or the file or plugin that provides it.
    """

    component: str
    path: str | None
    size_bytes: int = 0
    source: str = ""


@attrs.frozen(kw_only=True)
class Verdict:
    """Whether mold can use weights. `runs` is None for a component, which cannot run without a model.

    `reason` is one sentence. `like` is the catalog's model whose components complete it.
    """

    runs: bool | None
    reason: str
    like: str | None = None
    needs: tuple[NeededComponent, ...] = ()


def verdict_on(recognised: Recognised, knowledge: Knowledge, plugins: Plugins, store: ModelStore) -> Verdict:
    """Return whether mold can use the content of a file."""
    network = recognised.main
    if network is None or recognised.problem:
        return Verdict(runs=False, reason=recognised.problem or "nothing was recognised in it")
    if not recognised.known:
        return Verdict(runs=False, reason="mold does not know this network")
    unreadable = _unreadable(recognised, plugins)
    if unreadable:
        return Verdict(runs=False, reason=f"mold cannot read it: {unreadable}")
    if network.kind == "upscaler":
        return Verdict(runs=True, reason="mold upscale runs it")
    return _of_family(recognised, network, knowledge, plugins, store)


def like_of(signature: Signature, recognised: Recognised) -> str | None:
    """Return the catalog's model that completes a file: the variant that its name mentions, or the default."""
    name = recognised.path.name.lower()
    variants = (like for word, like in signature.variants.items() if word in name)
    return next(variants, signature.like)


def _of_family(
    recognised: Recognised, network: Network, knowledge: Knowledge, plugins: Plugins, store: ModelStore
) -> Verdict:
    signature = knowledge.signature(network.signature)
    family = plugins.families.get(network.family or "")
    if any(network.family in expander.model_families for expander in plugins.expanders.values()):
        return Verdict(runs=True, reason="mold expand runs it")
    users = sorted({user.title for user in _users(network, knowledge)})
    if family is None and users:
        return Verdict(runs=None, reason=f"a component of {' and '.join(users[:4])}")
    if family is None or signature is None:
        return Verdict(runs=False, reason=f"no installed plugin runs {_article(network)}")
    if network.kind == "LoRA":
        return Verdict(runs=True, reason=f"a LoRA for models of the family {family.name} ({family.title})")
    like = like_of(signature, recognised)
    spec = plugins.models.get(like or "")
    if spec is None:
        return Verdict(runs=None, reason=f"a component of {family.title} models")
    needs = tuple(_needed(spec, network, recognised, signature, store))
    missing = [need.component for need in needs if need.path is None]
    how = f"the family {family.name} runs it ({family.title})"
    if missing:
        how += f"; it still needs: {', '.join(missing)}"
    return Verdict(runs=True, reason=how, like=spec.name, needs=needs)


def _users(network: Network, knowledge: Knowledge) -> Iterator[Signature]:
    """Yield the networks whose models use a component."""
    for signature in knowledge.signatures:
        if any(network.signature in names for names in signature.needs.values()):
            yield signature


def _needed(
    spec: ModelSpec, network: Network, recognised: Recognised, signature: Signature, store: ModelStore
) -> Iterator[NeededComponent]:
    """Yield the components of the catalog's model, except those in the file."""
    inside = {found.signature for found in recognised.networks}
    for file in spec.files:
        if file.component == network.component:
            continue
        if inside & set(signature.needs.get(file.component, ())):
            yield NeededComponent(component=file.component, path=recognised.paths[0], source="inside the same file")
            continue
        here = store.choices(spec, file)
        yield NeededComponent(
            component=file.component,
            path=str(here[0]) if here else None,
            size_bytes=file.size_bytes or 0,
            source=file.repo or "",
        )


def _unreadable(recognised: Recognised, plugins: Plugins) -> str | None:
    """Return why `mold_core.weights` refuses a file; None if it can read it."""
    for name in recognised.paths:
        try:
            open_weights(Path(name), plugins.loaders)
        except CheckpointError as error:
            return str(error).removeprefix(f"{name}: ")
    return None


def _article(network: Network) -> str:
    return f"LoRAs for {network.title}" if network.kind == "LoRA" else f"{network.title} ({network.kind})"
