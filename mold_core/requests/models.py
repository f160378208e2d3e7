"""What the engine knows of models: names, families, files and the default."""

from __future__ import annotations

import attrs

from mold_core.catalog import (
    DefaultModel,
    LoraFolder,
    ModelEntry,
    ModelSpec,
    ModelStore,
    SuppliedLora,
    default_model,
    resolve,
)
from mold_core.catalog.adopted import read_adopted
from mold_core.errors import PluginError, ValidationError
from mold_core.hookspecs import ModelFamily
from mold_core.parameters import describe
from mold_core.placement.device import choose_devices
from mold_core.placement.device_map import PlacedModel, Placements, placed
from mold_core.plugins import Plugins
from mold_core.settings import Settings
from mold_core.upscaling.loading import FAMILY as UPSCALERS
from mold_core.wire import DevicePlacement, ParameterInfo

__all__ = ["ModelEntry", "Models"]


@attrs.frozen
class Models:
    """The models of the catalog, the families that run them, where their files are and on which devices they go."""

    settings: Settings
    plugins: Plugins
    store: ModelStore
    placements: Placements

    def default(self) -> DefaultModel:
        """Return the model that requests without a name get, and why that one."""
        return default_model(self.settings, self.plugins.models, self.store, self._generates)

    def resolve(self, name: str | None) -> ModelSpec:
        """Return the model that a name means; None means the default. Raises UnknownModelError."""
        return self.default().spec if name is None else resolve(name, self.plugins.models)

    def family_of(self, spec: ModelSpec) -> ModelFamily:
        """Return the family that runs a model. Raises PluginError when its plugin is not there.

        Raises ValidationError for a model that makes no images by itself.
        """
        if spec.family == UPSCALERS:
            raise ValidationError(
                f"{spec.name} enlarges images and makes none", field="model", value=spec.name, hint="use mold upscale"
            )
        family = self.plugins.families.get(spec.family)
        if spec.part_of is not None:
            raise ValidationError(
                f"{spec.name!r} is a part of models of the family {spec.part_of}, no model by itself",
                field="model",
                value=spec.name,
                hint="name one of those (mold list)",
            )
        if family is None and spec.family in self._language_families():
            raise ValidationError(
                f"{spec.name} is a language model: it writes prompts and makes no images",
                field="model",
                value=spec.name,
                hint="mold expand uses it, and mold run --expand",
            )
        if family is None:
            raise PluginError(
                f"model {spec.name!r} needs family {spec.family!r}, which no loaded plugin brings",
                hint="mold plugins shows what is loaded and what failed",
            )
        return family

    def loras_for(self, spec: ModelSpec) -> LoraFolder:
        """Return where the LoRAs of requests to a model lie: in the folder for them, and those of the catalog."""
        supplied = {
            part.name: SuppliedLora(file=self.store.path_of(part, file), models=str(part.options.get("models", "")))
            for part in self.plugins.models.values()
            if part.part_of == spec.family
            for file in part.files
            if file.component == "lora"
        }
        return LoraFolder(self.settings.loras_path, supplied, spec.name, read_adopted(self.settings.home).loras)

    def placed(self, spec: ModelSpec, placement: DevicePlacement | None = None) -> PlacedModel:
        """Return a model with the devices of a request's placement, or else of its own.

        Raises ValidationError for what cannot be honoured here.
        """
        wanted = placement or self.placements.get(spec.name)
        if wanted is None:
            return PlacedModel(spec=spec)
        return placed(spec, self.family_of(spec), wanted, lambda: choose_devices(self.settings))

    def entries(self, loaded: frozenset[str]) -> list[ModelEntry]:
        """Return every model with what is known of it here."""
        return [
            ModelEntry(
                spec=spec,
                downloaded=self.store.has(spec),
                loaded=spec.name in loaded,
                runnable=self.runnable(spec),
            )
            for spec in self.plugins.models.values()
        ]

    def _language_families(self) -> frozenset[str]:
        """Return the families of the models that write prompts."""
        expanders = self.plugins.expanders.values()
        return frozenset().union(*(expander.model_families for expander in expanders))

    def provided(self, spec: ModelSpec) -> bool:
        """Say whether a loaded plugin can run a model, or the models that it is a part of."""
        return self.runnable(spec) or (spec.part_of or spec.family) in self.plugins.families

    def runnable(self, spec: ModelSpec) -> bool:
        """Say whether a loaded plugin can run a model."""
        upscales = spec.family == UPSCALERS and bool(self.plugins.upscalers)
        return self._generates(spec) or upscales or spec.family in self._language_families()

    def abilities(self, spec: ModelSpec) -> tuple[str, ...]:
        """Return what a model can be asked for: its family's capabilities, "upscale" or "expand"; or nothing."""
        if self._generates(spec):
            return tuple(sorted(self.plugins.families[spec.family].capabilities))
        if not self.runnable(spec):
            return ()
        return ("upscale",) if spec.family == UPSCALERS else ("expand",)

    def parameters(self, spec: ModelSpec) -> tuple[ParameterInfo, ...]:
        """Return the parameters that a model takes, with its defaults; none where no plugin provides its family."""
        if not self._generates(spec):
            return ()
        return describe(self.plugins.families[spec.family].parameters, attrs.asdict(spec.defaults))

    def _generates(self, spec: ModelSpec) -> bool:
        return spec.part_of is None and spec.family in self.plugins.families
