"""Strict conversion between JSON and wire classes. An error lists every problem with the path of its field.

Values are not coerced, except that JSON does not distinguish 83.0 from 83: both are accepted as an integer, and 3 as a
float. Unknown keys are ignored in requests, and refused in files that people write (`strict_keys`).
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import attrs
import cattrs
from cattrs import BaseConverter
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from mold_core.errors import MalformedError, ValidationError
from mold_core.wire.base64_text import decode_base64
from mold_core.wire.fields import bound_problem, bounds_of, open_field, shorten, traits_of

__all__ = ["check", "from_json", "from_text", "scalar", "to_json"]

T = TypeVar("T")
Hook = Callable[[Any, Any], Any]

_EMPTY: Any = attrs.Factory(dict)


def from_text(cls: type[T], text: str | bytes, *, strict_keys: bool = False) -> T:
    """Return the object that JSON text describes.

    Raises MalformedError for text that is not JSON (NaN and Infinity included), ValidationError for wrong values.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise MalformedError("the JSON is nested too deeply") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise MalformedError(f"this is not JSON: {error}") from None
    return from_json(cls, data, strict_keys=strict_keys)


def from_json(cls: type[T], data: object, *, strict_keys: bool = False) -> T:
    """Return the object that decoded JSON describes. Raises one ValidationError that lists every problem."""
    try:
        return _converter(strict_keys).structure(data, cls)
    except (cattrs.BaseValidationError, ValueError, TypeError) as error:
        problems = tuple(_problems(error, ""))
    raise _validation_error(problems)


def to_json(value: object) -> Any:
    """Return `value` as JSON types. Bytes become base64 text; None and empty optional objects are omitted."""
    return _converter(False).unstructure(value)


def check(value: object) -> None:
    """Raise ValidationError if a wire object built in Python has a value of a wrong type or out of bounds."""
    problems = tuple(_object_problems(value, ""))
    if problems:
        raise _validation_error(problems)


def _validation_error(problems: tuple[str, ...]) -> ValidationError:
    first_path = problems[0].split(" ", 1)[0]
    field = None if first_path == "the" else first_path  # problems of the whole object begin with "the object"
    return ValidationError("; ".join(problems), field=field, problems=problems)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")


# --- scalars -----------------------------------------------------------------------------------------------------


def _integer(value: object) -> int:
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"must be a whole number, not {shorten(value)}")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number, not {shorten(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("must be a finite number") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {shorten(value)}")
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {shorten(value)}")
    return value


def _base64(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return decode_base64(_text(value))
    except ValueError:
        raise ValueError("must be base64 text (RFC 4648) or a data: URL") from None


_SCALARS: dict[type, Callable[[object], Any]] = {
    int: _integer,
    float: _number,
    str: _text,
    bool: _boolean,
    bytes: _base64,
}


def scalar(type_: type, value: object) -> Any:
    """Return a JSON value converted to `type_`. Raises ValueError with the type that it must have."""
    return _SCALARS[type_](value)


# --- the converter -----------------------------------------------------------------------------------------------


@cache
def _converter(strict_keys: bool) -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=True, forbid_extra_keys=strict_keys)
    for scalar, convert in _SCALARS.items():
        converter.register_structure_hook(scalar, _scalar_hook(convert))
    converter.register_structure_hook_func(_is_literal, _literal)
    converter.register_structure_hook_factory(_is_tuple, _tuple_factory)
    converter.register_structure_hook_func(_is_dict, _object)
    converter.register_structure_hook_factory(attrs.has, _class_factory)
    converter.register_unstructure_hook(bytes, lambda data: base64.b64encode(data).decode("ascii"))
    converter.register_unstructure_hook_factory(
        attrs.has, lambda cls, conv: _flattening(cls, make_dict_unstructure_fn(cls, conv, **_omit_empty(cls)))
    )
    return converter


def _omit_empty(cls: type) -> dict[str, Any]:
    """Return overrides that omit fields with an empty object as default while they are empty."""
    return {field.name: override(omit_if_default=True) for field in attrs.fields(cls) if field.default == _EMPTY}


def _is_literal(type_: Any) -> bool:
    return get_origin(type_) is Literal


def _is_tuple(type_: Any) -> bool:
    return get_origin(type_) is tuple


def _is_dict(type_: Any) -> bool:
    return get_origin(type_) is dict


def _object(value: object, _type: Any) -> dict[str, Any]:
    """Return a JSON object without checking its items: their types are declared elsewhere."""
    if not isinstance(value, Mapping):
        raise ValueError(f"must be an object, not {shorten(value)}")
    return dict(value)


def _scalar_hook(convert: Callable[[object], Any]) -> Hook:
    return lambda value, _type: convert(value)


def _literal(value: object, literal: Any) -> Any:
    words = get_args(literal)
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"must be one of {', '.join(map(str, words))}, not {shorten(value)}")
    return value


def _tuple_factory(tuple_type: Any, converter: BaseConverter) -> Hook:
    item_type = get_args(tuple_type)[0]

    def structure(value: object, _type: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError(f"must be a list, not {shorten(value)}")
        items, errors = [], []
        for index, item in enumerate(value):
            try:
                items.append(converter.structure(item, item_type))
            except (cattrs.BaseValidationError, ValueError, TypeError) as error:
                errors.append(_at(error, f"[{index}]"))
        if errors:
            raise cattrs.BaseValidationError("list", errors, tuple_type)
        return tuple(items)

    return structure


def _class_factory(cls: type, converter: BaseConverter) -> Hook:
    overrides = {
        attribute.name: override(struct_hook=_bounded_hook(attribute, converter)) for attribute in attrs.fields(cls)
    }
    structure: Hook = make_dict_structure_fn(cls, converter, **overrides)  # type: ignore[arg-type]
    nullable = frozenset(attribute.name for attribute in attrs.fields(cls) if _is_required_nullable(attribute))

    def checked(value: object, type_: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError(f"must be an object, not {shorten(value)}")
        # An explicit null means the same as leaving the field out.
        return structure({key: item for key, item in value.items() if item is not None or key in nullable}, type_)

    return checked if open_field(cls) is None else _open_hook(cls, checked, converter)


def _open_hook(cls: Any, structure: Hook, converter: BaseConverter) -> Hook:
    """Return a hook for a class with an open-ended field, whose entries are fields of the JSON object."""
    field = open_field(attrs.resolve_types(cls))
    assert field is not None
    item_type = get_args(field.type)[1]
    declared = {attribute.name for attribute in attrs.fields(cls)} - {field.name}

    def structure_open(value: object, type_: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError(f"must be an object, not {shorten(value)}")
        entries: dict[str, Any] = {}
        errors: list[Exception] = []
        result: Any = None
        try:
            result = structure({key: item for key, item in value.items() if key in declared}, type_)
        except cattrs.BaseValidationError as error:
            errors.append(error)
        for key, item in value.items():
            try:
                if key not in declared and item is not None:
                    entries[key] = converter.structure(item, item_type)
            except (cattrs.BaseValidationError, ValueError, TypeError) as error:
                errors.append(_at(error, f".{key}"))
        if errors:
            raise cattrs.BaseValidationError("object", errors, cls)
        return attrs.evolve(result, **{field.name: entries})

    return structure_open


def _is_required_nullable(attribute: attrs.Attribute[Any]) -> bool:
    """Return whether a field has no default and may be None, so that null is a value of it."""
    return attribute.default is attrs.NOTHING and type(None) in get_args(attribute.type)


def _bounded_hook(attribute: attrs.Attribute[Any], converter: BaseConverter) -> Hook:
    bounds = bounds_of(attribute)

    def structure(value: object, type_: Any) -> Any:
        result = converter.structure(value, type_)
        problem = bound_problem(bounds, result)
        if problem:
            raise ValueError(problem)
        return result

    return structure


def _flattening(cls: type, unstructure: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """Return a hook that leaves None out, and writes the entries of an open-ended field as fields."""
    field = open_field(cls)

    def unstructure_flat(value: Any) -> dict[str, Any]:
        content = {key: item for key, item in unstructure(value).items() if item is not None}
        entries = content.pop(field.name, {}) if field is not None else {}
        return {**content, **entries}

    return unstructure_flat


# --- problems ----------------------------------------------------------------------------------------------------


class _Located(ValueError):
    """An error and the path step at which it happened."""

    def __init__(self, step: str, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.step = step
        self.cause = cause


def _at(error: BaseException, step: str) -> _Located:
    return _Located(step, error)


def _problems(error: BaseException, path: str) -> list[str]:
    if isinstance(error, _Located):
        return _problems(error.cause, (path + error.step).removeprefix("."))
    if isinstance(error, cattrs.ClassValidationError):
        return [line for inner in error.exceptions for line in _problems(inner, _field_path(inner, path))]
    if isinstance(error, cattrs.BaseValidationError):
        return [line for inner in error.exceptions for line in _problems(inner, path)]
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        names = ", ".join(sorted(map(str, error.extra_fields)))
        known = ", ".join(attribute.name for attribute in attrs.fields(error.cl))
        return [f"{path or 'the object'} has unknown keys {names} (known: {known})"]
    if isinstance(error, KeyError):
        return [f"{path} is required"]
    return [f"{path or 'the value'} {error}"]


def _field_path(error: BaseException, path: str) -> str:
    for note in getattr(error, "__notes__", ()):
        name = getattr(note, "name", None)
        if name is not None:
            return f"{path}.{name}" if path else str(name)
    return path


def _object_problems(value: Any, path: str) -> list[str]:
    problems: list[str] = []
    for attribute in attrs.fields(attrs.resolve_types(type(value))):
        here = f"{path}.{attribute.name}" if path else attribute.name
        if traits_of(attribute).open_ended:
            here = path
        item = getattr(value, attribute.name)
        found = _type_problems(attribute.type, item, here)
        bound = None if found else bound_problem(bounds_of(attribute), item)
        problems.extend([f"{here} {bound}"] if bound else found)
    return problems


def _type_problems(declared: Any, value: Any, path: str) -> list[str]:
    if get_origin(declared) in (Union, UnionType):  # on the wire every union is "X | None"
        if value is None:
            return []
        declared = next(option for option in get_args(declared) if option is not type(None))
    if value is None:
        return [f"{path} is required"]
    if attrs.has(declared) and isinstance(value, declared):
        return _object_problems(value, path)
    if get_origin(declared) is tuple and isinstance(value, tuple):
        item_type = get_args(declared)[0]
        return [
            line for index, item in enumerate(value) for line in _type_problems(item_type, item, f"{path}[{index}]")
        ]
    if get_origin(declared) is dict and isinstance(value, dict) and attrs.has(get_args(declared)[1]):
        item_type = get_args(declared)[1]
        return [
            line for key, item in value.items() for line in _type_problems(item_type, item, f"{path}.{key}".lstrip("."))
        ]
    problem = _mismatch(declared, value)
    return [f"{path} {problem}"] if problem else []


def _mismatch(declared: Any, value: object) -> str | None:
    if get_origin(declared) is tuple:
        return f"must be a tuple, not {shorten(value)}"
    if attrs.has(declared):
        return f"must be a {declared.__name__}, not {shorten(value)}"
    if get_origin(declared) is dict:
        return None if isinstance(value, dict) else f"must be a dict, not {shorten(value)}"
    if declared is bytes:
        return None if isinstance(value, bytes) else f"must be bytes, not {shorten(value)}"
    if declared is int and isinstance(value, float):  # unlike JSON, Python distinguishes 83.0 from 83
        return f"must be a whole number, not {shorten(value)}"
    try:
        if get_origin(declared) is Literal:
            _literal(value, declared)
        elif declared in _SCALARS:
            _SCALARS[declared](value)
    except ValueError as error:
        return str(error)
    return None
