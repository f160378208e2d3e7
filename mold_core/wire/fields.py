"""Field declarations of wire classes: type, default, bounds and words for people, kept in one place.

The same declaration checks JSON from the network, checks objects made in Python, and becomes JSON Schema and help text.
"""

from __future__ import annotations

import reprlib
from math import isfinite
from typing import Any

import attrs

__all__ = ["Bounds", "bound_problem", "bounds_of", "doc_of", "shorten", "wire_field"]

_BOUNDS = "mold_bounds"
_DOC = "mold_doc"


@attrs.frozen(kw_only=True)
class Bounds:
    """What a value must keep to beyond its type; `None` means no limit. Lengths of text are in UTF-8 bytes."""

    minimum: float | None = None
    maximum: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    choices: tuple[str, ...] | None = None
    not_blank: bool = False


def wire_field(doc: str, *, default: Any = attrs.NOTHING, **bounds: Any) -> Any:
    """Declare an attribute of a wire class. `doc` is one sentence a person reads in help and schema."""
    return attrs.field(default=default, metadata={_DOC: doc, _BOUNDS: Bounds(**bounds)})


def bounds_of(attribute: attrs.Attribute[Any]) -> Bounds:
    """Return the bounds an attribute was declared with."""
    return attribute.metadata.get(_BOUNDS) or Bounds()


def doc_of(attribute: attrs.Attribute[Any]) -> str:
    """Return the sentence an attribute was declared with."""
    return str(attribute.metadata.get(_DOC, ""))


def bound_problem(bounds: Bounds, value: Any) -> str | None:
    """Say in words which bound `value` breaks, or return None."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return _number_problem(bounds, value)
    if isinstance(value, str):
        return _text_problem(bounds, value)
    if isinstance(value, bytes | tuple | list) and bounds.min_length and len(value) < bounds.min_length:
        return "must not be empty"
    if isinstance(value, bytes | tuple | list) and bounds.max_length is not None and len(value) > bounds.max_length:
        return f"must hold at most {bounds.max_length:,} {'bytes' if isinstance(value, bytes) else 'items'}"
    return None


def _number_problem(bounds: Bounds, value: float) -> str | None:
    if isinstance(value, float) and not isfinite(value):
        return f"must be a finite number, not {value}"
    low, high = bounds.minimum, bounds.maximum
    if (low is None or value >= low) and (high is None or value <= high):
        return None
    shown = shorten(value)
    if low is not None and high is not None:
        return f"must be from {low} to {high}, not {shown}"
    return f"must be at least {low}, not {shown}" if high is None else f"must be at most {high}, not {shown}"


def _text_problem(bounds: Bounds, value: str) -> str | None:
    if bounds.not_blank and not value.strip():
        return "must not be empty"
    if bounds.choices is not None and value not in bounds.choices:
        return f"must be one of {', '.join(bounds.choices)}, not {shorten(value)}"
    if bounds.max_length is not None:
        try:
            size = len(value.encode())
        except UnicodeEncodeError as error:
            return f"must be Unicode text, which has no lone surrogate as at position {error.start}"
        if size > bounds.max_length:
            return f"must be at most {bounds.max_length:,} bytes of UTF-8, not {size:,}"
    return None


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 2


def shorten(value: object, limit: int = 60) -> str:
    """Return `repr(value)` cut to a length that fits an error line, however large or deeply nested the value."""
    try:
        text = _SHORT.repr(value)
    except ValueError:  # Python refuses to write out numbers of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
