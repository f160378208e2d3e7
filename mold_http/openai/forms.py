"""Forms of OpenAI's routes as wire objects: text fields become numbers, booleans and lists."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import attrs

from mold_core.errors import MalformedError, MoldError, ValidationError
from mold_core.wire.convert import from_json
from mold_http.guard.forms import Form
from mold_http.guard.json_text import parse_json

__all__ = ["from_form"]

T = TypeVar("T")

_LORA = re.compile(r"loras\[(\d*)\]\[(path|scale)\]")
_OPTION = re.compile(r"options\[([^\[\]]+)\]")
_NUMBERS: tuple[Any, ...] = (int, float, int | None, float | None)
_BOOLEANS: tuple[Any, ...] = (bool, bool | None)


def from_form(cls: type[T], form: Form, files: Mapping[str, Any]) -> T:
    """Return the wire object of a form's text fields, with `files` in the fields of those names.

    Raises MalformedError or a ValidationError that names every problem.
    """
    types = {field.name: field.type for field in attrs.fields(attrs.resolve_types(cls))}  # type: ignore[arg-type, type-var]
    fields: dict[str, Any] = {
        name: _value(name, values[-1], types.get(name)) for name, values in form.texts.items() if "[" not in name
    }
    loras = _loras(form.texts) if "loras" in types else None
    if loras is not None:
        fields["loras"] = loras
    if "options" in types:
        options, named = fields.get("options", {}), _options(form.texts)
        fields["options"] = {**options, **named} if isinstance(options, dict) else options  # from_json refuses the rest
    return from_json(cls, {**fields, **files})


def _value(name: str, text: str, type_: Any) -> Any:
    """Return a text field as a JSON value of the field's type."""
    if type_ in _BOOLEANS:
        return text.lower() in ("true", "1")
    return _parsed(name, text) if type_ in _NUMBERS or name in ("loras", "options") else text


def _parsed(name: str, text: str) -> Any:
    try:
        return parse_json(text.encode())
    except (ValueError, MoldError):
        raise MalformedError(f"{name} cannot be read", field=name) from None


def _options(texts: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return the options in ``options[NAME]``, the form in which the client sends objects. Text need not be quoted."""
    return {
        match[1]: _number_or_text(values[-1]) for name, values in texts.items() if (match := _OPTION.fullmatch(name))
    }


def _number_or_text(text: str) -> Any:
    try:
        value = parse_json(text.encode())
    except (ValueError, MoldError):
        return text
    return value if isinstance(value, bool | int | float) else text


def _loras(texts: Mapping[str, list[str]]) -> list[dict[str, Any]] | None:
    """Return the LoRAs in ``loras[][path]`` and ``loras[][scale]``, the form in which the client sends lists."""
    columns: dict[str, list[str]] = {}
    for name, values in texts.items():
        match = _LORA.fullmatch(name)
        if match:
            columns.setdefault(match[2], []).extend(values)
    paths, scales = columns.get("path", []), columns.get("scale", [])
    if not paths:
        return None
    if scales and len(scales) != len(paths):
        raise ValidationError("loras must all have a scale, or none", field="loras")
    rows = [{"path": path} for path in paths]
    return [{**row, "scale": _parsed("scale", scale)} for row, scale in zip(rows, scales, strict=True)] or rows
