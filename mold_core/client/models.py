"""Converts the model list of a server to catalog entries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from mold_core.catalog import DefaultModel, ModelDefaults, ModelEntry, ModelFile, ModelSpec, resolve
from mold_core.errors import ModelNotFoundError
from mold_core.wire.convert import from_json
from mold_core.wire.fields import wire_field

__all__ = ["ListedModel", "RemoteModels", "listed"]


@attrs.frozen(kw_only=True)
class ListedModel:
    """A model in the list of a server. Fields that older servers do not send have defaults."""

    name: str = wire_field("Full name.")
    family: str = wire_field("Name of its family.")
    description: str = wire_field("Description in one line.", default="")
    is_loaded: bool = wire_field("Whether it is in memory.", default=False)
    downloaded: bool = wire_field("Whether all its files are on the server's disk.", default=True)
    runnable: bool = wire_field("Whether an installed plugin runs it.", default=True)
    capabilities: tuple[str, ...] = wire_field("Capabilities of its family.", default=())
    default_width: int | None = wire_field("Default width in pixels.", default=None)
    default_height: int | None = wire_field("Default height in pixels.", default=None)
    default_steps: int | None = wire_field("Default number of denoising steps.", default=None)
    default_guidance: float | None = wire_field("Default guidance scale.", default=None)
    default_frames: int | None = wire_field("Default number of frames.", default=None)
    default_fps: int | None = wire_field("Default frames per second.", default=None)
    licence: str | None = wire_field("SPDX name of the licence.", default=None)
    size_bytes: int = wire_field("Size of all files in bytes.", default=0)
    embedded: bool = wire_field("Whether its files ship with a plugin.", default=False)
    part_of: str | None = wire_field("Family for which it is a component.", default=None)
    chain_frames: int | None = wire_field("Default number of frames per clip in chains.", default=None)
    default_because: str | None = wire_field("Reason why it is the default model.", default=None)

    @property
    def spec(self) -> ModelSpec:
        """The catalog entry with what the server reports; one file represents all files."""
        defaults = ("width", "height", "steps", "guidance", "frames", "fps")
        files = (ModelFile(component="all", path="", size_bytes=self.size_bytes),) if self.size_bytes else ()
        return ModelSpec(
            name=self.name,
            family=self.family,
            description=self.description,
            licence=self.licence,
            defaults=ModelDefaults(**{name: getattr(self, f"default_{name}") or None for name in defaults}),
            files=files,
            part_of=self.part_of,
            root=Path() if self.embedded else None,  # the real path is known only to the server
        )


@attrs.frozen
class RemoteModels:
    """The models of a server."""

    by_name: dict[str, ListedModel]

    def entries(self) -> list[ModelEntry]:
        """Return every model as an entry of listings."""
        return [
            ModelEntry(spec=model.spec, downloaded=model.downloaded, loaded=model.is_loaded, runnable=model.runnable)
            for model in self.by_name.values()
        ]

    def resolve(self, name: str | None) -> ModelSpec:
        """Return the model for a name; None means the server's default. Raises UnknownModelError."""
        return self.default().spec if name is None else resolve(name, self.specs())

    def specs(self) -> dict[str, ModelSpec]:
        """Return the catalog entries by name."""
        return {name: model.spec for name, model in self.by_name.items()}

    def default(self) -> DefaultModel:
        """Return the server's default model. Raises ModelNotFoundError if it has none."""
        for model in self.by_name.values():
            if model.default_because:
                return DefaultModel(model.spec, model.default_because)  # type: ignore[arg-type]
        raise ModelNotFoundError(
            "no model was named, and the server has no default", field="model", hint="name one with -m (see mold list)"
        )


def listed(data: Sequence[Any]) -> RemoteModels:
    """Return the models of a server's list. Raises ValidationError if the list is malformed."""
    models = [from_json(ListedModel, item) for item in data]
    return RemoteModels({model.name: model for model in models})
