"""Find the networks in the header of a file: split files of whole models, and match signatures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mold_core.catalog.signature import Signature
from mold_core.errors import CheckpointError
from mold_core.recognition.formats import format_of
from mold_core.recognition.headers import Entry, Header
from mold_core.recognition.recognised import Network
from mold_core.weights import LoraDescription, describe_lora

if TYPE_CHECKING:
    from mold_core.hookspecs import UpscalerArchitecture
    from mold_core.recognition.known import Knowledge

__all__ = ["networks_of"]

# Suffixes and parts of tensor names of LoRAs, in all common methods and spellings.
_LORA = re.compile(
    r"\.(lora_(down|up|A|B|mid|magnitude_vector)(\.\w+)?(\.weight)?|lora\.(down|up)\.weight|hada_w[12]_[ab]|lokr_w[12](_[ab])?"
    r"|oft_(blocks|diag)|dora_scale|diff(_b)?|alpha|lora_(down|up))$|_lora\.(down|up)\.weight$|\.oft_R\.|_lora[12]\.(down|up)"
)
_FEW_BYTES = 4_000_000  # remaining tensors below this size, next to recognised networks, are not a network


def networks_of(header: Header, knowledge: Knowledge) -> tuple[Network, ...]:
    """Return the networks of a file, recognised ones first; one without a signature if nothing matches."""
    entries = header.entries
    if _is_lora(entries):
        return (_lora(header, knowledge.signatures),)
    whole = _match(header, entries, knowledge.signatures)
    if whole is not None and whole.whole:
        return (_network(header, entries, knowledge),)
    groups = _split(entries, knowledge.prefixes)
    if len(groups) > 1 or (whole is None and "" not in groups):
        found = [_network(header, group, knowledge) for group in groups.values()]
        kept = [network for network in found if network.signature or network.size_bytes > _FEW_BYTES]
        if any(network.signature for network in kept) and not (whole and len(kept) == 1):
            return tuple(sorted(kept, key=lambda network: not network.signature))
    return (_network(header, entries, knowledge),)


def _network(header: Header, entries: Mapping[str, Entry], knowledge: Knowledge) -> Network:
    signature = _match(header, entries, knowledge.signatures)
    upscaler = _upscaler(entries, knowledge.upscalers) if signature is None else None
    if signature is not None:
        title, kind, name = signature.title, signature.kind, signature.name
    elif upscaler is not None:
        title, kind, name = upscaler, "upscaler", f"upscaler:{upscaler}"
    else:
        title, kind, name = "unknown network", "network", ""
    return Network(
        title=title,
        kind=kind,
        format=format_of(header, entries),
        size_bytes=sum(entry.size_bytes for entry in entries.values()),
        tensors=len(entries),
        signature=name,
        family=signature.family if signature else None,
        component=signature.component if signature else None,
        details=() if name else (_some(entries),),
    )


def _match(header: Header, entries: Mapping[str, Entry], signatures: Iterable[Signature]) -> Signature | None:
    """Return the most specific signature that matches; of equally specific ones, the first."""
    shapes = {name: entry.shape for name, entry in entries.items()}
    names = "\n".join(entries)
    best, best_weight = None, 0
    for signature in signatures:
        if signature.kind != "LoRA":
            weight = signature.weight(shapes, names, header.metadata)
            if weight > best_weight:
                best, best_weight = signature, weight
    return best


def _split(entries: Mapping[str, Entry], prefixes: tuple[str, ...]) -> dict[str, dict[str, Entry]]:
    """Group tensors by the prefix of their network in files of whole models, and remove the prefix.

    Quantisation markers such as ``scaled_fp8`` stay with the tensors that have no prefix.
    """
    groups: dict[str, dict[str, Entry]] = {}
    for name, entry in entries.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        groups.setdefault(prefix, {})[name.removeprefix(prefix)] = entry
    return groups


def _is_lora(entries: Mapping[str, Entry]) -> bool:
    """Return whether the tensors belong to a LoRA: low-rank factors of layers, and almost nothing else."""
    factors = sum(bool(_LORA.search(name)) for name in entries)
    return factors > 0 and factors * 3 >= len(entries)


def _lora(header: Header, signatures: Iterable[Signature]) -> Network:
    names = "\n".join(header.entries)
    shapes = {name: entry.shape for name, entry in header.entries.items()}
    loras = [signature for signature in signatures if signature.kind == "LoRA"]
    found = max(loras, key=lambda signature: signature.weight(shapes, names, header.metadata), default=None)
    if found is not None and not found.weight(shapes, names, header.metadata):
        found = None
    description = _described(header.path)
    return Network(
        title=found.title if found else (description.family if description else "") or "an unknown model",
        kind="LoRA",
        signature=found.name if found else "lora",
        family=found.family if found else None,
        component=found.component if found else None,
        format=format_of(header, header.entries),
        size_bytes=sum(entry.size_bytes for entry in header.entries.values()),
        tensors=len(header.entries),
        details=_lora_details(description),
    )


def _lora_details(description: LoraDescription | None) -> tuple[str, ...]:
    """Return method, ranks, alphas, layers, trigger words and licence of a LoRA, if its header has them."""
    if description is None:
        return ()
    facts = (
        " and ".join(description.methods),
        _range("rank", description.ranks),
        _range("alpha", description.alphas),
        f"{description.layers} layers",
        f"trigger words: {', '.join(description.trigger_words)}" if description.trigger_words else "",
        f"licence: {description.licence}" if description.licence else "",
    )
    return tuple(filter(None, facts))


def _range(name: str, numbers: Sequence[float]) -> str:
    if not numbers:
        return ""
    return f"{name} {numbers[0]:g}" if len(numbers) == 1 else f"{name} {numbers[0]:g} to {numbers[-1]:g}"


def _described(path: Path) -> LoraDescription | None:
    try:
        return describe_lora(path)
    except CheckpointError:
        return None  # mold cannot read the types, but kind and family are known


def _upscaler(entries: Mapping[str, Entry], upscalers: Iterable[UpscalerArchitecture]) -> str | None:
    """Return the name of a plugin's architecture that recognises the tensors, or None."""
    for architecture in upscalers:
        try:
            if architecture.recognises(entries):  # type: ignore[arg-type]  # it reads only names and shapes
                return architecture.name
        except Exception:  # a plugin's error with an unrelated file must not end a search of thousands
            continue
    return None


def _some(entries: Mapping[str, Entry]) -> str:
    names = [name if len(name) <= 60 else f"{name[:59]}…" for name in list(entries)[:3]]
    return f"tensors such as {', '.join(names)}" if names else "no tensors"
