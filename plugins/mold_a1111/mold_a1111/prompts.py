"""LoRAs in prompts: ``<lora:name:0.8>``."""

from __future__ import annotations

import re

from mold_core import LoraWeight, ValidationError

__all__ = ["split_prompt"]

# PERF: without the lookbehind a long run of spaces is searched again from each of them.
_LORA = re.compile(r"(?<![ ])[ ]*<lora:([^:<>]+)(?::([^:<>]*))?(?::[^<>]*)?>")


def split_prompt(prompt: str) -> tuple[str, tuple[LoraWeight, ...]]:
    """Return the prompt without LoRA tags, and the LoRAs that they name. Raises ValidationError for a malformed weight.

    A tag without a weight means 1. Of several weights, the first counts.
    """
    loras = tuple(_lora(match) for match in _LORA.finditer(prompt))
    return (_LORA.sub("", prompt).strip() if loras else prompt), loras


def _lora(match: re.Match[str]) -> LoraWeight:
    name, weight = match[1].strip(), (match[2] or "1").strip()
    try:
        return LoraWeight(path=name, scale=float(weight))
    except ValueError:
        raise ValidationError(
            f"{match[0].strip()}: {weight!r} is not a number", field="prompt", hint="write <lora:name:0.8>"
        ) from None
