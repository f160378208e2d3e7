"""Which upscaler a request means, and which tile sizes it may ask for."""

from __future__ import annotations

from mold_core.catalog import ModelSpec, resolve
from mold_core.errors import ModelNotFoundError, PluginError, ValidationError
from mold_core.requests.models import Models
from mold_core.settings import Settings
from mold_core.upscaling.loading import FAMILY
from mold_core.upscaling.memory import SMALLEST_TILE

__all__ = ["AUTO", "checked_tile_size", "embedded_upscaler", "installed_upscaler", "upscaler_for"]

# A name that means: the upscaler that suits the image.
AUTO = "auto"

_FOR_PHOTOS = "real-esrgan-x4plus:fp16"


def upscaler_for(models: Models, name: str | None, origin: str | None) -> ModelSpec:
    """Return the upscaler of a name; None and "auto" mean mold's own choice.

    That is the one inside mold for images by a model inside mold (`origin` is the name of the model that made the
    image), else the setting upscale_model, else the first one downloaded, else real-esrgan-x4plus:fp16, which is
    fetched. Raises UnknownModelError, ValidationError for a model that is no upscaler, PluginError where none is there.
    """
    if name is not None and name != AUTO:
        return _upscaler(models, name)
    upscalers = [spec for spec in models.plugins.models.values() if spec.family == FAMILY]
    made_by = models.plugins.models.get(origin or "")
    inside = embedded_upscaler(models)
    if made_by is not None and made_by.embedded and inside is not None:
        return inside
    if models.settings.upscale_model:
        return _upscaler(models, models.settings.upscale_model)
    here = [spec for spec in upscalers if not spec.embedded and models.store.has(spec)]
    wanted = [spec for spec in upscalers if spec.name == _FOR_PHOTOS]
    for spec in (*here, *wanted, *filter(None, [inside]), *upscalers):
        return _checked(models, spec)
    raise PluginError("no loaded plugin brings an upscaler", hint="pip install mold-esrgan")


def installed_upscaler(models: Models, origin: str | None) -> ModelSpec:
    """Return mold's own choice as `upscaler_for` does, but only of upscalers that need no download.

    Raises ModelNotFoundError where that leaves none.
    """
    spec = upscaler_for(models, None, origin)
    if models.store.has(spec):
        return spec
    inside = embedded_upscaler(models)
    if inside is None or models.settings.upscale_model:
        raise ModelNotFoundError(
            f"model is required: {spec.name} would be used and is not downloaded",
            field="model",
            hint=f"name a model, or fetch it: mold pull {spec.name}",
        )
    return inside


def embedded_upscaler(models: Models) -> ModelSpec | None:
    """Return the upscaler that ships inside a plugin, None where there is none."""
    specs = models.plugins.models.values()
    return next((spec for spec in specs if spec.family == FAMILY and spec.embedded), None)


def checked_tile_size(tile_size: int | None, settings: Settings) -> int | None:
    """Return the tile size of a request, or else of the settings. Raises ValidationError for one from 1 to 63."""
    size = settings.upscale_tile_size if tile_size is None else tile_size
    if size is not None and 0 < size < SMALLEST_TILE:
        raise ValidationError(
            f"tile_size must be 0 (no tiles) or at least {SMALLEST_TILE}, not {size}", field="tile_size", value=size
        )
    return size


def _upscaler(models: Models, name: str) -> ModelSpec:
    spec = resolve(name, models.plugins.models)
    if spec.family != FAMILY:
        near = ", ".join(model.name for model in models.plugins.models.values() if model.family == FAMILY)
        raise ValidationError(
            f"model {spec.name} is no upscaler", field="model", value=name, hint=f"there are {near or 'none'}"
        )
    return _checked(models, spec)


def _checked(models: Models, spec: ModelSpec) -> ModelSpec:
    if not models.plugins.upscalers:
        raise PluginError(
            f"no loaded plugin can run {spec.name}", hint="pip install mold-esrgan; mold plugins shows what is loaded"
        )
    return spec
