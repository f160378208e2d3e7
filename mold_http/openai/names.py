"""Model names in requests to OpenAI's routes: those of mold, and OpenAI's own, which mean a default model."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Literal

from mold_core.catalog import ModelSpec
from mold_core.engine import Engine
from mold_core.errors import ModelNotFoundError, MoldError, SettingsError, UnknownModelError, ValidationError

__all__ = ["OPENAI_NAMES", "Output", "chosen_model", "named_model"]

log = logging.getLogger("mold.http")

Output = Literal["images", "videos"]

# The names of OpenAI's own models for images and videos. Clients send them unless their user changes the model.
OPENAI_NAMES = re.compile(r"(dall-e|gpt-image|chatgpt-image|sora)(-[\w.-]*)?", re.ASCII | re.IGNORECASE)


def chosen_model(engine: Engine, name: str | None, output: Output) -> ModelSpec:
    """Return the model of a request for images or videos.

    OpenAI's own names, and no name, mean the first suitable model of MOLD_OPENAI_MODEL, the default model, or an
    installed model. Raises UnknownModelError with the nearest names, ModelNotFoundError if no model is suitable,
    and ValidationError for a model with another output.
    """
    spec = None if name is None else named_model(engine, name)
    if spec is None:
        spec = _default(engine, output)
        if name is not None:
            log.info("model %s of a request stands for %s", name, spec.name)
    elif _outputs(engine, spec) not in (output, None):
        other = "videos" if output == "images" else "images"
        hint = "send it to /v1/videos" if output == "images" else "send it to /v1/images/generations"
        raise ValidationError(f"{spec.name} generates {other}, not {output}", field="model", value=spec.name, hint=hint)
    return spec


def named_model(engine: Engine, name: str) -> ModelSpec | None:
    """Return the model of this name; None for one of OpenAI's own names. Raises UnknownModelError."""
    try:
        return engine.resolve(name)
    except UnknownModelError:
        if OPENAI_NAMES.fullmatch(name.strip()):
            return None
        raise


def _default(engine: Engine, output: Output) -> ModelSpec:
    for spec in _candidates(engine):
        if _outputs(engine, spec) == output:
            return spec
    raise ModelNotFoundError(
        f"no model that generates {output} is installed", field="model", hint="mold list shows what can be pulled"
    )


def _candidates(engine: Engine) -> Iterator[ModelSpec]:
    for name in engine.settings.openai_model or ():
        try:
            yield engine.resolve(name)
        except MoldError as error:
            raise SettingsError("MOLD_OPENAI_MODEL: %s", error) from error
    try:
        yield engine.default_model().spec
    except ModelNotFoundError:
        return
    installed = [entry.spec for entry in engine.models() if entry.downloaded and entry.runnable]
    yield from sorted(installed, key=lambda spec: spec.embedded)


def _outputs(engine: Engine, spec: ModelSpec) -> Output | None:
    """Return what a model generates; None for one that generates nothing by itself."""
    capabilities = () if spec.part_of else engine.capabilities(spec)
    if not capabilities:
        return None
    return "videos" if "text-to-video" in capabilities else "images"
