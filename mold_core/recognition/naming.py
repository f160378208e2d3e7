"""Derive the name of an adopted model from its file: in lower case, without words for the format of the weights."""

from __future__ import annotations

import re
from collections.abc import Container

__all__ = ["free_name", "model_name", "plain_name"]

# Words for the format of the weights rather than the model, with the dash or dot before them.
_FORMAT = re.compile(
    r"(?:^|[-_. ])(?:"
    r"i?q\d(?:[-_](?:k(?:[-_](?:xl|xs|[sml]))?|[01]|nl|xxs|xs))?|bf16|f(?:p)?16|f(?:p)?32|nf4|nvfp4|mxfp8|fp4|int[48]"
    r"|fp8(?:mixed|scaled)?|float8|e4m3(?:fn)?|e5m2|w4a8|w4a4|gptq|awq|svdquant|scaled|convrot|mixed|gguf|safetensors"
    r"|pruned|emaonly|ema"
    r")(?=$|[-_. ])",
    re.IGNORECASE,
)
_LONGEST = 64


def plain_name(stem: str) -> str:
    """Return a file name without format words: ``z-image-turbo`` for ``z_image_turbo_int8_convrot``."""
    name, before = stem, None
    while name != before:
        name, before = _FORMAT.sub("", name), name
    name = re.sub(r"[^a-z0-9.]+", "-", name.lower())
    name = re.sub(r"-{2,}", "-", name).strip("-.")[:_LONGEST].strip("-.")
    return name or re.sub(r"[^a-z0-9.]+", "-", stem.lower()).strip("-.") or "model"


def model_name(stem: str, tag: str) -> str:
    """Return the full name of a model for the name of its file and the tag of its format."""
    return f"{plain_name(stem)}:{tag}"


def free_name(name: str, taken: Container[str]) -> str:
    """Return a free name: the name itself, or with a number after its base."""
    if name not in taken:
        return name
    base, colon, tag = name.partition(":")
    number = 2
    while f"{base}-{number}{colon}{tag}" in taken:
        number += 1
    return f"{base}-{number}{colon}{tag}"
