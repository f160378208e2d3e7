"""Name the storage format of a network's weights: the common name, and a tag for names of models."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from mold_core.recognition.headers import Entry, Header

__all__ = ["format_of", "tag_of"]

_PLAIN = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16", "F8_E4M3": "fp8 e4m3", "F8_E5M2": "fp8 e5m2"}

# Formats in the markers of ComfyUI's files → the names in common use.
_NOTED = {
    "float8_e4m3fn": "fp8 scaled",
    "float8_e5m2": "fp8 e5m2 scaled",
    "int8_tensorwise": "int8",
    "int8_rowwise": "int8",
    "awq_w4a16": "awq int4",
    "svdquant": "svdquant int4",
}

# Suffixes of tensor names that identify a format in files without markers → its name.
_MARKS = (
    (".quant_state.bitsandbytes__nf4", "nf4"),
    (".quant_state.bitsandbytes__fp4", "fp4 bitsandbytes"),
    (".weight_scale_2", "nvfp4"),
    (".wscales", "svdquant int4"),
    (".smooth_factor", "svdquant int4"),
    (".qzeros", "awq int4"),
    (".weight._data", "quanto"),
    ("._data", "quanto"),
    (".SCB", "int8 bitsandbytes"),
)
_SCALES = (".weight_scale", ".scale_weight", "scaled_fp8")

# llama.cpp's file type numbers (llama.h: llama_ftype) whose name is more specific than the type of the tensors.
_FILE_TYPES = {
    10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M",
}  # fmt: skip


def format_of(header: Header, entries: Mapping[str, Entry]) -> str:
    """Return the name of the format of tensors of a file: bf16, fp8 scaled, int8 convrot, nvfp4, Q4_K_M, …"""
    if header.format == "gguf":
        return _gguf(header, entries)
    if header.quantisations and any(name.endswith(".comfy_quant") for name in entries):
        return " + ".join(dict.fromkeys(map(_noted, header.quantisations)))
    for ending, name in _MARKS:
        if any(tensor.endswith(ending) for tensor in entries):
            return name
    largest = _by_bytes(entry for entry in entries.values() if entry.type not in ("I64", "I32", "U8", "BOOL"))
    if largest in ("F8_E4M3", "F8_E5M2") and any(name.endswith(_SCALES) for name in entries):
        return f"{'fp8' if largest == 'F8_E4M3' else 'fp8 e5m2'} scaled"
    if largest == "I8":
        return "int8"
    return _PLAIN.get(largest, largest.lower() or "unknown")


def tag_of(format: str) -> str:
    """Return the model tag of a format: fp8 for fp8 scaled, int8 for int8 convrot, q4 for Q4_K."""
    first = format.split(" + ")[0]
    if found := re.match(r"I?Q(\d)", first):
        return f"q{found[1]}"
    if found := re.search(r"nvfp4|mxfp8|nf4|int8|int4|fp8|w4a8|w4a4|bf16|fp16|fp32", first.lower()):
        return found[0]
    return re.sub(r"[^a-z0-9]+", "-", first.lower()).strip("-") or "unknown"


def _noted(note: str) -> str:
    name, _, rotated = note.partition(" ")
    return " ".join(filter(None, (_NOTED.get(name, name), rotated)))


def _gguf(header: Header, entries: Mapping[str, Entry]) -> str:
    types = Counter(entry.type for entry in entries.values() if entry.type not in ("F32", "F16", "BF16"))
    if not types:
        return _PLAIN.get(_by_bytes(entries.values()), "fp16")
    number = header.metadata.get("general.file_type")
    named = _FILE_TYPES.get(number) if isinstance(number, int) else None
    most = types.most_common(1)[0][0]
    return named if named and named.startswith(most.partition("_")[0]) else most


def _by_bytes(entries: Iterable[Entry]) -> str:
    """Return the type with the most bytes; empty if there are no tensors."""
    totals: Counter[str] = Counter()
    for entry in entries:
        totals[entry.type] += entry.size_bytes
    return totals.most_common(1)[0][0] if totals else ""
