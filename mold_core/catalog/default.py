"""The default model, for requests that name none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import attrs

from mold_core.catalog.model import ModelSpec
from mold_core.catalog.names import resolve
from mold_core.catalog.store import ModelStore
from mold_core.errors import ModelNotFoundError, OutputError, UnknownModelError
from mold_core.files import write_whole
from mold_core.settings import Settings

__all__ = ["DefaultModel", "default_model", "remember_model"]

Reason = Literal["setting", "last used", "only downloaded", "embedded"]


@attrs.frozen
class DefaultModel:
    """The default model and the reason for the choice."""

    spec: ModelSpec
    reason: Reason


def default_model(
    settings: Settings,
    catalog: Mapping[str, ModelSpec],
    store: ModelStore,
    generates: Callable[[ModelSpec], bool] = lambda spec: True,
) -> DefaultModel:
    """Return the default: the setting, else the last used model, else the only downloaded one, else the embedded one.

    `generates` returns whether a model generates images or videos by itself. The setting wins even if its model is not
    downloaded. Raises ModelNotFoundError if there is none of these.
    """
    if settings.default_model:
        try:
            return DefaultModel(resolve(settings.default_model, catalog), "setting")
        except UnknownModelError as error:
            raise UnknownModelError(
                "the default model in MOLD_DEFAULT_MODEL or config.toml is unknown: %s",
                error,
                field=error.field,
                value=error.value,
                hint=error.hint,
            ) from None
    candidates = [spec for spec in catalog.values() if generates(spec) and store.has(spec)]
    last = _last_used(settings.home)
    for spec in candidates:
        # An embedded model that was tried once must not win over one that is downloaded later.
        if spec.name == last and not spec.embedded:
            return DefaultModel(spec, "last used")
    downloaded = [spec for spec in candidates if spec.files and not spec.embedded]
    if len(downloaded) == 1:
        return DefaultModel(downloaded[0], "only downloaded")
    embedded = [spec for spec in candidates if spec.embedded]
    if embedded:
        return DefaultModel(embedded[0], "embedded")
    raise ModelNotFoundError(
        "no model was named and none is installed", field="model", hint="name one with -m; mold list shows all"
    )


def remember_model(home: Path, name: str) -> None:
    """Store the name of the last used model. A failure to write is ignored."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        write_whole(home / "last-model", name.encode())
    except (OSError, OutputError):
        return


def _last_used(home: Path) -> str | None:
    try:
        return (home / "last-model").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
