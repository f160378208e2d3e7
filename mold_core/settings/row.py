"""One row of the settings table, and its declaration."""

from __future__ import annotations

from typing import Any

import attrs

from mold_core.wire.fields import Bounds

__all__ = ["Setting", "setting"]


@attrs.frozen(kw_only=True)
class Setting:
    """A setting: `name` in Python, `env` its environment variable, `key` its key in config.toml (None: no key).

    `type` is int, float, bool, str, pathlib.Path, tuple[str, ...] or a Literal of words, or the union of one of these
    with None. `minimum`, `maximum` and `not_blank` limit the value. With `empty_counts`, an empty variable is a value;
    otherwise it counts as not set. A `secret` is not shown when settings are printed.

    For settings of plugins: `flag` is the help text of a flag ``--NAME`` of the commands that run models (None: no
    flag). `variant_of` is a component of models; a value other than the default selects the variant of its file.
    """

    name: str
    env: str
    key: str | None = None
    type: Any = str
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    not_blank: bool = False
    doc: str
    empty_counts: bool = False
    secret: bool = False
    flag: str | None = None
    variant_of: str | None = None

    @property
    def bounds(self) -> Bounds:
        """The limits of the value."""
        return Bounds(minimum=self.minimum, maximum=self.maximum, not_blank=self.not_blank)


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
    """Declare a setting of mold as a field of `Settings`. The arguments are those of `Setting`."""
    about = {"doc": doc, "env": env, "key": key, "empty_counts": empty_counts, **bounds}
    return attrs.field(default=default, metadata=about, repr=not secret)
