"""JSON text of wire objects that contain media, without several copies of the media in memory."""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Iterator
from typing import Any

import attrs

from mold_core.wire.fields import is_optional_empty

__all__ = ["text_pieces", "to_text"]


def to_text(value: object) -> str:
    """Return a wire object as JSON text, equal to `json.dumps(to_json(value))`."""
    return "".join(text_pieces(value))


def text_pieces(value: object, *, sort_keys: bool = False) -> Iterator[str]:
    """Yield the text of `to_text` in pieces; every media file is one piece."""
    mark, media = secrets.token_hex(8), list[bytes]()
    plain = json.dumps(_without_media(value, mark, media), sort_keys=sort_keys)
    for index, piece in enumerate(re.split(rf"{mark}(\d+)", plain)):
        # NOTE: base64 has no character that JSON escapes.
        yield base64.b64encode(media[int(piece)]).decode("ascii") if index % 2 else piece


def _without_media(value: Any, mark: str, media: list[bytes]) -> Any:
    if isinstance(value, bytes):
        media.append(value)
        return f"{mark}{len(media) - 1}"
    if attrs.has(type(value)):
        items = {field: getattr(value, field.name) for field in attrs.fields(type(value))}
        return {
            field.name: _without_media(item, mark, media)
            for field, item in items.items()
            if item is not None and not is_optional_empty(field, item)
        }
    if isinstance(value, list | tuple):
        return [_without_media(item, mark, media) for item in value]
    if isinstance(value, dict):
        return {name: _without_media(item, mark, media) for name, item in value.items()}
    return value
