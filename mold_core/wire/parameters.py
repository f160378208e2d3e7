"""What a parameter of a model is, as servers describe it to clients."""

from __future__ import annotations

from typing import Any

import attrs

from mold_core.wire.fields import wire_field

__all__ = ["ParameterInfo"]


@attrs.frozen(kw_only=True)
class ParameterInfo:
    """A parameter that a model takes: a shared field of requests, or one of its family's own."""

    name: str = wire_field("Its name.")
    doc: str = wire_field("What it does, for people.")
    minimum: float | None = wire_field("Least value.", default=None)
    maximum: float | None = wire_field("Largest value.", default=None)
    schema: dict[str, Any] = wire_field("JSON Schema of its value.", default=attrs.Factory(dict), hash=False)
    own: bool = wire_field("Whether it belongs to the family and is sent within `options`.", default=False)
    group: str | None = wire_field("Heading that forms show it under.", default=None)
    placed: bool = wire_field("Whether forms have a place of their own for it, outside the settings.", default=False)
