"""The models that the engine can use: names, families, files, devices and the default."""

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
    """The models of the catalog, with their families, their files and their devices."""

    settings: Settings
    plugins: Plugins
    store: ModelStore
    placements: Placements

    def default(self) -> DefaultModel:
        """Return the model for requests that name none, and the reason for the choice."""
        return default_model(self.settings, self.plugins.models, self.store, self._generates)

    def resolve(self, name: str | None) -> ModelSpec:
        """Return the model for a name; None means the default. Raises UnknownModelError."""
        return self.default().spec if name is None else resolve(name, self.plugins.models)

    def family_of(self, spec: ModelSpec) -> ModelFamily:
        """Return the family that runs a model.

        Raises PluginError if no loaded plugin provides it, ValidationError for a model that does not generate images.
        """
        if spec.family == UPSCALERS:
            raise ValidationError(
                f"{spec.name} is an upscaler and does not generate images",
                field="model",
                value=spec.name,
                hint="use mold upscale",
            )
        family = self.plugins.families.get(spec.family)
        if spec.part_of is not None:
            raise ValidationError(
                f"{spec.name!r} is a component of models of the family {spec.part_of} and cannot run by itself",
                field="model",
                value=spec.name,
                hint="name one of those models (mold list)",
            )
        if family is None and spec.family in self._language_families():
            raise ValidationError(
                f"{spec.name} is a language model for prompts and does not generate images",
                field="model",
                value=spec.name,
                hint="use it with mold expand or mold run --expand",
            )
        if family is None:
            raise PluginError(
                f"model {spec.name!r} needs family {spec.family!r}, which no loaded plugin provides",
                hint="mold plugins shows what is loaded and what failed",
            )
        return family

    def loras_for(self, spec: ModelSpec) -> LoraFolder:
        """Return the LoRAs for a model: those in the LoRA folder, and those of the catalog."""
        supplied = {
            part.name: SuppliedLora(file=self.store.path_of(part, file), models=str(part.options.get("models", "")))
            for part in self.plugins.models.values()
            if part.part_of == spec.family
            for file in part.files
            if file.component == "lora"
        }
        return LoraFolder(self.settings.loras_path, supplied, spec.name, read_adopted(self.settings.home).loras)

    def placed(self, spec: ModelSpec, placement: DevicePlacement | None = None) -> PlacedModel:
        """Return a model with the devices of a request's placement, or else those configured for the model.

        Raises ValidationError for a placement that is impossible on this machine.
        """
        requested = placement or self.placements.get(spec.name)
        if requested is None:
            return PlacedModel(spec=spec)
        return placed(spec, self.family_of(spec), requested, lambda: choose_devices(self.settings))

    def entries(self, loaded: frozenset[str]) -> list[ModelEntry]:
        """Return every model with its state on this machine."""
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
        """Return the families of the language models for prompts."""
        expanders = self.plugins.expanders.values()
        return frozenset().union(*(expander.model_families for expander in expanders))

    def provided(self, spec: ModelSpec) -> bool:
        """Return whether a loaded plugin can run a model, or the models that it is a component of."""
        return self.runnable(spec) or (spec.part_of or spec.family) in self.plugins.families

    def runnable(self, spec: ModelSpec) -> bool:
        """Return whether a loaded plugin can run a model."""
        upscales = spec.family == UPSCALERS and bool(self.plugins.upscalers)
        return self._generates(spec) or upscales or spec.family in self._language_families()

    def abilities(self, spec: ModelSpec) -> tuple[str, ...]:
        """Return the capabilities of a model's family, "upscale" or "expand"; empty if no plugin runs the model."""
        if self._generates(spec):
            return tuple(sorted(self.plugins.families[spec.family].capabilities))
        if not self.runnable(spec):
            return ()
        return ("upscale",) if spec.family == UPSCALERS else ("expand",)

    def parameters(self, spec: ModelSpec) -> tuple[ParameterInfo, ...]:
        """Return the parameters of a model with its defaults; empty if no plugin provides its family."""
        if not self._generates(spec):
            return ()
        return describe(self.plugins.families[spec.family].parameters, attrs.asdict(spec.defaults))

    def _generates(self, spec: ModelSpec) -> bool:
        return spec.part_of is None and spec.family in self.plugins.families
