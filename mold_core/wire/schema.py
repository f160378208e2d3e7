"""JSON Schema of wire classes, generated from the declarations that also validate requests."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from mold_core.wire.fields import bounds_of, doc_of, open_field, traits_of

__all__ = ["class_schema", "classes_within", "field_schema", "type_schema"]

Schema = dict[str, Any]

_SCALARS: dict[Any, Schema] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bytes: {"type": "string", "contentEncoding": "base64"},
    NoneType: {"type": "null"},
}

REFERENCE = "#/components/schemas/"


def class_schema(cls: type, *, inline: bool = False) -> Schema:
    """Return the schema of an attrs class (JSON Schema 2020-12).

    Nested classes are references by name, or written out with `inline`.
    """
    fields = attrs.fields(attrs.resolve_types(cls))
    described = {field.name: field_schema(field, inline=inline) for field in fields if not traits_of(field).open_ended}
    schema: Schema = {"type": "object", "description": inspect.cleandoc(cls.__doc__ or ""), "properties": described}
    required = [field.name for field in fields if field.default is attrs.NOTHING]
    if required:
        schema["required"] = required
    further = open_field(cls)
    if further is not None:
        schema["additionalProperties"] = type_schema(get_args(further.type)[1], inline=inline)
    return schema


def type_schema(type_: Any, *, inline: bool = False) -> Schema:
    """Return the schema of any type a field may have: scalars, literals, tuples, mappings, unions, attrs classes.

    With `inline` it is self-contained: nested classes are included instead of referenced, and null is not a value.
    """
    origin, inner = get_origin(type_), get_args(type_)
    if type_ is Any:
        return {}
    if type_ in _SCALARS:
        return dict(_SCALARS[type_])
    if attrs.has(type_) and inline:
        return class_schema(type_, inline=True)
    if attrs.has(type_):
        return {"$ref": f"{REFERENCE}{type_.__name__}"}
    if origin is Literal:
        return {"type": "string", "enum": list(inner)}
    if origin in (tuple, list):
        return {"type": "array", "items": type_schema(inner[0], inline=inline)}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": type_schema(inner[1], inline=inline)}
    if origin in (Union, UnionType):
        options = [option for option in inner if not (inline and option is NoneType)]
        schemas = [type_schema(option, inline=inline) for option in options]
        return schemas[0] if len(schemas) == 1 else _any_of(schemas)
    raise TypeError(f"no JSON Schema is known for {type_!r}")


def classes_within(cls: type) -> Iterator[type]:
    """Yield an attrs class and every attrs class nested in its fields, each once."""
    found: dict[type, None] = {}
    waiting: list[Any] = [cls]
    while waiting:
        type_ = waiting.pop()
        if attrs.has(type_) and type_ not in found:
            found[type_] = None
            waiting.extend(field.type for field in attrs.fields(attrs.resolve_types(type_)))
        waiting.extend(option for option in get_args(type_) if not isinstance(option, str))
    yield from found


def _any_of(options: list[Schema]) -> Schema:
    if all(option.keys() == {"type"} for option in options):
        return {"type": [option["type"] for option in options]}
    return {"anyOf": options}


def field_schema(field: attrs.Attribute[Any], *, inline: bool = False) -> Schema:
    """Return the schema of a field. The types of its class must be resolved. `inline` as for `type_schema`."""
    schema = _bounded(type_schema(field.type, inline=inline), field)
    if doc_of(field):
        schema["description"] = doc_of(field)
    if isinstance(field.default, str | int | float | bool):
        schema["default"] = field.default
    return schema


def _bounded(schema: Schema, field: attrs.Attribute[Any]) -> Schema:
    """Return the schema with the bounds of the field; in a union they apply to the first branch."""
    if "anyOf" in schema:
        first, *rest = schema["anyOf"]
        return {"anyOf": [_bounded(first, field), *rest]}
    bounds, kind = bounds_of(field), schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    if "integer" in kinds or "number" in kinds:
        limits = {"minimum": bounds.minimum, "maximum": bounds.maximum}
    elif "array" in kinds:
        limits = {"minItems": bounds.min_length, "maxItems": bounds.max_length}
    elif "string" in kinds:
        limits = {"minLength": 1 if bounds.not_blank else bounds.min_length}
        if "contentEncoding" not in schema:
            limits["maxLength"] = bounds.max_length
        if bounds.choices is not None:
            schema["enum"] = list(bounds.choices)
        if bounds.not_blank:
            schema["pattern"] = r"\S"
    else:
        return schema
    return {**schema, **{name: limit for name, limit in limits.items() if limit is not None}}
