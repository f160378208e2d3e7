"""One row of the table of settings, and how it is declared."""

from __future__ import annotations

from typing import Any

import attrs

from mold_core.wire.fields import Bounds

__all__ = ["Setting", "setting"]


@attrs.frozen(kw_only=True)
class Setting:
    """One row of the table."""

    name: str
    env: str
    key: str | None
    type: Any
    default: Any
    bounds: Bounds
    doc: str
    empty_counts: bool
    secret: bool


def setting(
    doc: str,
    *,
    env: str,
    key: str | None,
    default: Any = None,
    empty_counts: bool = False,
    secret: bool = False,
    **bounds: Any,
) -> Any:
    """Declare a row. With `empty_counts` an empty variable is a value; otherwise it counts as not set.

    What is `secret` is left out where settings are printed.
    """
    about = {"doc": doc, "env": env, "key": key, "bounds": Bounds(**bounds), "empty_counts": empty_counts}
    return attrs.field(default=default, metadata=about, repr=not secret)
