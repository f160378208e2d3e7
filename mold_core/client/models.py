"""Models as a server lists them → the entries that commands work with."""

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
    """What is read of a model in the server's list; what an older server does not say has a default."""

    name: str = wire_field("Full name.")
    family: str = wire_field("Its family.")
    description: str = wire_field("One line for people.", default="")
    is_loaded: bool = wire_field("Whether it is in memory.", default=False)
    downloaded: bool = wire_field("Whether its files are there.", default=True)
    runnable: bool = wire_field("Whether a plugin runs it.", default=True)
    capabilities: tuple[str, ...] = wire_field("What its family can do.", default=())
    default_width: int | None = wire_field("Width.", default=None)
    default_height: int | None = wire_field("Height.", default=None)
    default_steps: int | None = wire_field("Steps.", default=None)
    default_guidance: float | None = wire_field("Guidance.", default=None)
    default_frames: int | None = wire_field("Frames.", default=None)
    default_fps: int | None = wire_field("Frames per second.", default=None)
    licence: str | None = wire_field("Licence.", default=None)
    size_bytes: int = wire_field("Size of all files.", default=0)
    embedded: bool = wire_field("Whether its files come with a plugin.", default=False)
    part_of: str | None = wire_field("Family that it is a part for.", default=None)
    chain_frames: int | None = wire_field("Frames of a clip of a chain.", default=None)
    default_because: str | None = wire_field("Why it is the default.", default=None)

    @property
    def spec(self) -> ModelSpec:
        """The catalog entry, as far as the server tells it; one file stands for all."""
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
            root=Path() if self.embedded else None,  # where, only the server knows
        )


@attrs.frozen
class RemoteModels:
    """The models of a server."""

    by_name: dict[str, ListedModel]

    def entries(self) -> list[ModelEntry]:
        """Return every model as listings show it."""
        return [
            ModelEntry(spec=model.spec, downloaded=model.downloaded, loaded=model.is_loaded, runnable=model.runnable)
            for model in self.by_name.values()
        ]

    def resolve(self, name: str | None) -> ModelSpec:
        """Return the model that a name means; None means the server's default. Raises UnknownModelError."""
        return self.default().spec if name is None else resolve(name, self.specs())

    def specs(self) -> dict[str, ModelSpec]:
        """Return the catalog entries by name."""
        return {name: model.spec for name, model in self.by_name.items()}

    def default(self) -> DefaultModel:
        """Return the server's default model. Raises ModelNotFoundError where it has none."""
        for model in self.by_name.values():
            if model.default_because:
                return DefaultModel(model.spec, model.default_because)  # type: ignore[arg-type]
        raise ModelNotFoundError(
            "no model was named and the server has none", field="model", hint="name one with -m; mold list shows all"
        )


def listed(data: Sequence[Any]) -> RemoteModels:
    """Return the models of the server's list. Raises ValidationError for what is none."""
    models = [from_json(ListedModel, item) for item in data]
    return RemoteModels({model.name: model for model in models})
