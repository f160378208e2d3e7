"""Writes responses: wire objects as JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import attrs
import falcon.asgi

from mold_core.wire.fields import open_field
from mold_http.accept import JSON

__all__ = ["JSON", "dumps", "json_of", "respond_json"]

# PERF: most fields have one of these types, and a lookup costs less than `json_of`, which handles subclasses.
_PLAIN = frozenset((str, int, float, bool, type(None)))

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False, ensure_ascii=False).encode


def json_of(value: Any) -> Any:
    """Return a value as JSON types: bytes as base64, without optional fields that are None.

    A field without a default is always present, if necessary as null, as in the schema of the class.
    """
    if isinstance(value, str | int | float | bool | None):
        return value
    if attrs.has(type(value)):
        fields = _fields(type(value))  # type: ignore[arg-type]  # classes can be hashed
        pairs = ((name, required, getattr(value, name)) for name, required in fields)
        content = {
            name: item if type(item) in _PLAIN else json_of(item)
            for name, required, item in pairs
            if required or item is not None
        }
        return content | content.pop(_open_field(type(value)), {})  # type: ignore[arg-type]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {str(key): json_of(item) for key, item in value.items()}
    return [json_of(item) for item in value]


@cache
def _fields(cls: Any) -> tuple[tuple[str, bool], ...]:
    return tuple((field.name, field.default is attrs.NOTHING) for field in attrs.fields(cls))


@cache
def _open_field(cls: Any) -> str:
    """Return the name of the field whose entries are fields of the JSON object; empty if there is none."""
    field = open_field(cls)
    return "" if field is None else field.name


def dumps(value: Any) -> bytes:
    """Return JSON types as UTF-8 text."""
    # NOTE: a lone surrogate, which JSON may contain, has no UTF-8; it is escaped.
    return _encode(value).encode("utf-8", "backslashreplace")


def respond_json(resp: falcon.asgi.Response, value: Any, status: int = 200) -> None:
    """Respond with a wire object, or JSON types, as JSON."""
    resp.status = status
    resp.content_type = JSON
    resp.data = dumps(json_of(value))
