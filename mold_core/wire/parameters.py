"""The description of a model's parameter, as servers send it to clients."""

from __future__ import annotations

from typing import Any

import attrs

from mold_core.wire.fields import wire_field

__all__ = ["ParameterInfo"]


@attrs.frozen(kw_only=True)
class ParameterInfo:
    """A parameter that a model accepts: a shared field of requests, or one declared by its family."""

    name: str = wire_field("Name of the parameter.")
    doc: str = wire_field("One sentence: what it does.")
    minimum: float | None = wire_field("Smallest allowed value.", default=None)
    maximum: float | None = wire_field("Largest allowed value.", default=None)
    schema: dict[str, Any] = wire_field("JSON Schema of its value.", default=attrs.Factory(dict), hash=False)
    own: bool = wire_field("True if the family declares it; requests send it in `options`.", default=False)
    group: str | None = wire_field("Heading in forms.", default=None)
    placed: bool = wire_field("True if forms have a dedicated control for it, outside the settings.", default=False)
