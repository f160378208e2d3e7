"""Field declarations of wire classes: one declaration holds everything about a field.

It validates JSON from the network and objects built in Python, generates JSON Schema and help text, and determines
which models accept the field, whether metadata records it, and which control a form shows.
"""

from __future__ import annotations

import reprlib
from math import isfinite
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import attrs

__all__ = [
    "Bounds",
    "FieldTraits",
    "bound_problem",
    "bounds_of",
    "choices_of",
    "doc_of",
    "is_optional_empty",
    "open_field",
    "shorten",
    "traits_of",
    "wire_field",
]

_BOUNDS = "mold_bounds"
_DOC = "mold_doc"
_TRAITS = "mold_traits"
_NO_ENTRIES: Any = attrs.Factory(dict)


@attrs.frozen(kw_only=True)
class Bounds:
    """Limits of a value beyond its type; None means no limit.

    `minimum` and `maximum` are inclusive. Lengths count UTF-8 bytes of text, bytes of binary data, items of lists.
    """

    minimum: float | None = None
    maximum: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    choices: tuple[str, ...] | None = None
    not_blank: bool = False


@attrs.frozen(kw_only=True)
class FieldTraits:
    """How models, metadata, chains and forms treat a field of a request.

    `needs`: capabilities, one of which a family must have to accept the field; empty: every family accepts it.
    `optional`: a family without the capability ignores the field with a warning instead of refusing it. `recorded`:
    metadata of results contains the field, and `--from` reads it from there. `of_model`: the value depends on the
    model, so `--from` skips it if another model is named. `clip_only`: chains do not support the field. `title`: the
    label in forms. `placed`: forms have a dedicated control for it, so it is not in the list of settings. `open_ended`:
    in JSON, the entries of this dict are fields of the object itself.
    """

    needs: tuple[str, ...] = ()
    optional: bool = False
    recorded: bool = False
    of_model: bool = False
    clip_only: bool = False
    title: str | None = None
    placed: bool = False
    open_ended: bool = False


def wire_field(
    doc: str,
    *,
    default: Any = attrs.NOTHING,
    needs: str | tuple[str, ...] = (),
    optional: bool = False,
    recorded: bool = False,
    of_model: bool = False,
    clip_only: bool = False,
    title: str | None = None,
    placed: bool = False,
    open_ended: bool = False,
    hash: bool | None = None,
    **bounds: Any,
) -> Any:
    """Declare an attribute of a wire class. `doc` is one sentence for help texts and the schema.

    `FieldTraits` describes the arguments from `needs` to `open_ended`, `Bounds` the names allowed in `bounds`. A field
    with a dict needs `hash=False`, so that its object can be hashed.
    """
    traits = FieldTraits(
        needs=(needs,) if isinstance(needs, str) else needs,
        optional=optional,
        recorded=recorded,
        of_model=of_model,
        clip_only=clip_only,
        title=title,
        placed=placed,
        open_ended=open_ended,
    )
    metadata = {_DOC: doc, _BOUNDS: Bounds(**bounds), _TRAITS: traits}
    return attrs.field(default=default, metadata=metadata, hash=hash)


def traits_of(attribute: attrs.Attribute[Any]) -> FieldTraits:
    """Return the traits in the declaration of an attribute."""
    return attribute.metadata.get(_TRAITS) or FieldTraits()


def open_field(cls: type) -> attrs.Attribute[Any] | None:
    """Return the field of a class that holds what JSON has beside the declared fields; None where it takes no more."""
    return next((field for field in attrs.fields(cls) if traits_of(field).open_ended), None)


def choices_of(attribute: attrs.Attribute[Any]) -> tuple[str, ...]:
    """Return the allowed words of a field, from its type or its bounds; empty if any value is allowed.

    The types of the attribute's class must be resolved (`attrs.resolve_types`).
    """
    declared = attribute.type
    options = get_args(declared) if get_origin(declared) in (Union, UnionType) else (declared,)
    literal = next((option for option in options if get_origin(option) is Literal), None)
    return get_args(literal) if literal is not None else bounds_of(attribute).choices or ()


def is_optional_empty(attribute: attrs.Attribute[Any], value: object) -> bool:
    """Return whether JSON omits a field because its value and its default are both an empty object."""
    return value == {} and attribute.default == _NO_ENTRIES


def bounds_of(attribute: attrs.Attribute[Any]) -> Bounds:
    """Return the bounds in the declaration of an attribute."""
    return attribute.metadata.get(_BOUNDS) or Bounds()


def doc_of(attribute: attrs.Attribute[Any]) -> str:
    """Return the doc sentence in the declaration of an attribute."""
    return str(attribute.metadata.get(_DOC, ""))


def bound_problem(bounds: Bounds, value: Any) -> str | None:
    """Return the end of an error sentence about the bound that `value` violates, such as "must be at least 1, not 0".

    None if it violates none.
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return _number_problem(bounds, value)
    if isinstance(value, str):
        return _text_problem(bounds, value)
    if isinstance(value, bytes | tuple | list) and bounds.min_length and len(value) < bounds.min_length:
        return "must not be empty"
    if isinstance(value, bytes | tuple | list) and bounds.max_length is not None and len(value) > bounds.max_length:
        return f"must have at most {bounds.max_length:,} {'bytes' if isinstance(value, bytes) else 'items'}"
    return None


def _number_problem(bounds: Bounds, value: float) -> str | None:
    if isinstance(value, float) and not isfinite(value):
        return f"must be a finite number, not {value}"
    low, high = bounds.minimum, bounds.maximum
    if (low is None or value >= low) and (high is None or value <= high):
        return None
    short = shorten(value)
    if low is not None and high is not None:
        return f"must be from {low} to {high}, not {short}"
    return f"must be at least {low}, not {short}" if high is None else f"must be at most {high}, not {short}"


def _text_problem(bounds: Bounds, value: str) -> str | None:
    if bounds.not_blank and not value.strip():
        return "must not be empty"
    if bounds.choices is not None and value not in bounds.choices:
        return f"must be one of {', '.join(bounds.choices)}, not {shorten(value)}"
    if bounds.max_length is not None:
        try:
            size = len(value.encode())
        except UnicodeEncodeError as error:
            return f"must be valid Unicode text; there is a lone surrogate at position {error.start}"
        if size > bounds.max_length:
            return f"must be at most {bounds.max_length:,} bytes of UTF-8, not {size:,}"
    return None


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 2


def shorten(value: object, limit: int = 60) -> str:
    """Return `repr(value)` shortened to `limit` characters for an error line, for values of any size and depth."""
    try:
        text = _SHORT.repr(value)
    except ValueError:  # Python refuses to write out numbers of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
