"""Selects the upscaler of a request, and checks its tile size."""

from __future__ import annotations

from mold_core.catalog import ModelSpec, resolve
from mold_core.errors import ModelNotFoundError, PluginError, ValidationError
from mold_core.requests.models import Models
from mold_core.settings import Settings
from mold_core.upscaling.loading import FAMILY
from mold_core.upscaling.memory import SMALLEST_TILE

__all__ = ["AUTO", "checked_tile_size", "embedded_upscaler", "installed_upscaler", "upscaler_for"]

# The name that selects the upscaler automatically.
AUTO = "auto"

# The option of the catalog entry to download if no upscaler is downloaded.
_RECOMMENDED = "recommended"

_INSTALL = "install a plugin with upscalers; mold plugins shows what is loaded"


def upscaler_for(models: Models, name: str | None, origin: str | None) -> ModelSpec:
    """Return the upscaler for a name; None and "auto" select one.

    The order: for images of an embedded model (`origin` is the model that generated the image) the embedded upscaler;
    the setting upscale_model; the first downloaded upscaler; the catalog entry with the option `recommended`, which is
    then downloaded. Raises UnknownModelError, ValidationError for a model that is not an upscaler, and PluginError.
    """
    if name is not None and name != AUTO:
        return _upscaler(models, name)
    upscalers = [spec for spec in models.plugins.models.values() if spec.family == FAMILY]
    origin_spec = models.plugins.models.get(origin or "")
    inside = embedded_upscaler(models)
    if origin_spec is not None and origin_spec.embedded and inside is not None:
        return inside
    if models.settings.upscale_model:
        return _upscaler(models, models.settings.upscale_model)
    here = [spec for spec in upscalers if not spec.embedded and models.store.has(spec)]
    recommended = [spec for spec in upscalers if spec.options.get(_RECOMMENDED)]
    for spec in (*here, *recommended, *filter(None, [inside]), *upscalers):
        return _checked(models, spec)
    raise PluginError("no loaded plugin provides an upscaler", hint=_INSTALL)


def installed_upscaler(models: Models, origin: str | None) -> ModelSpec:
    """Select an upscaler as `upscaler_for` does, but only one that needs no download.

    Raises ModelNotFoundError if there is none.
    """
    spec = upscaler_for(models, None, origin)
    if models.store.has(spec):
        return spec
    inside = embedded_upscaler(models)
    if inside is None or models.settings.upscale_model:
        raise ModelNotFoundError(
            f"model is required, because the default upscaler {spec.name} is not downloaded",
            field="model",
            hint=f"name a model, or download it: mold pull {spec.name}",
        )
    return inside


def embedded_upscaler(models: Models) -> ModelSpec | None:
    """Return the upscaler that ships with a plugin, or None."""
    specs = models.plugins.models.values()
    return next((spec for spec in specs if spec.family == FAMILY and spec.embedded), None)


def checked_tile_size(tile_size: int | None, settings: Settings) -> int | None:
    """Return the tile size of a request, or else of the settings. Raises ValidationError for sizes from 1 to 63."""
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
            f"model {spec.name} is not an upscaler", field="model", value=name, hint=f"upscalers: {near or 'none'}"
        )
    return _checked(models, spec)


def _checked(models: Models, spec: ModelSpec) -> ModelSpec:
    if not models.plugins.upscalers:
        raise PluginError(f"no loaded plugin can run {spec.name}", hint=_INSTALL)
    return spec
