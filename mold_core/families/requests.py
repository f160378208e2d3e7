"""What a model and a complete request say: size rules, and fields that have a value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mold_core.catalog import ModelSpec
    from mold_core.hookspecs import SizeRules

__all__ = ["required", "sizes_from_options"]

_Value = TypeVar("_Value")


def required(value: _Value | None) -> _Value:
    """Return the value of a field that every complete request has, such as its width, steps or seed."""
    assert value is not None, "a pipeline got a request that was not completed"
    return value


def sizes_from_options(spec: ModelSpec, rules: SizeRules) -> SizeRules:
    """Return the size rules of a model: those in its ``options.sizes``, else the family's `rules`."""
    from mold_core.hookspecs import SizeRules

    sizes: dict[str, Any] | None = spec.options.get("sizes")
    if sizes is None:
        return rules
    return SizeRules(**{**sizes, "recommended": tuple((width, height) for width, height in sizes["recommended"])})
