"""Completes a generation request: model, defaults, size, seed, and what the family accepts."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from typing import TypeVar

import attrs

from mold_core.catalog import LoraFolder, ModelSpec
from mold_core.errors import ValidationError
from mold_core.home import mold_home
from mold_core.hookspecs import ModelFamily, SizeRules
from mold_core.media.decoder import check_image, probe_video
from mold_core.parameters import complete_options
from mold_core.requests.formats import with_format
from mold_core.wire import GenerateRequest
from mold_core.wire.fields import Bounds, bound_problem, traits_of

__all__ = ["adjust_size", "complete"]

# Random seeds are short, so that people can copy them by hand. Requests may use any seed up to 2^64-1.
_RANDOM_SEED_BITS = 32

T = TypeVar("T")


def complete(
    request: GenerateRequest,
    spec: ModelSpec,
    family: ModelFamily,
    *,
    embed_metadata: bool = True,
    expand: bool = False,
    loras: LoraFolder | None = None,
) -> tuple[GenerateRequest, tuple[str, ...]]:
    """Return the completed request, and warnings about adjusted or ignored fields.

    The completed request has all LoRAs in `loras`, with the paths of their files; names are looked up in `loras`, by
    default the LoRA folder of MOLD_HOME. Raises ValidationError for fields that the family does not support.
    """
    # The request is checked before the family replaces values in it, and again afterwards.
    ignored = _refuse_unsupported(request, spec, family)
    warnings: list[str] = []
    request = attrs.evolve(request, options=complete_options(request.options, family.parameters, spec.name))
    original, request = request, family.resolve_inputs(spec, request)
    if request is not original:
        _refuse_unsupported(request, spec, family)
    if original.steps is not None and request.steps != original.steps:
        warnings.append(f"{spec.name} always takes {request.steps} steps; {original.steps} is ignored")
    width, height = _size(request, spec, family, warnings.append)
    defaults = spec.defaults
    completed = attrs.evolve(
        with_format(request, spec, family),
        model=spec.name,
        width=width,
        height=height,
        steps=request.steps or defaults.steps or 1,
        guidance=_first(request.guidance, defaults.guidance, 0.0),
        seed=_first(request.seed, secrets.randbits(_RANDOM_SEED_BITS)),
        embed_metadata=_first(request.embed_metadata, embed_metadata),
        lora=None,
        loras=(loras or LoraFolder(mold_home() / "loras")).located(request),
        expand=request.expand if request.expand is not None else expand or None,
    )
    family.check(spec, completed)
    return completed, (*warnings, *ignored)


def adjust_size(width: int, height: int, rules: SizeRules) -> tuple[int, int]:
    """Return the nearest size that the rules allow: scaled to the limits with the aspect ratio kept, then rounded."""
    least = math.ceil(rules.min_side / rules.multiple) * rules.multiple
    most = rules.max_side or math.inf
    scale = min(1.0, math.sqrt(rules.max_pixels / (width * height)), most / max(width, height))
    # Halves round up; if that exceeds the limit again, both sides are rounded down.
    for rounding in (0.5, 0.0):
        wide, high = (
            max(int(side * scale / rules.multiple + rounding) * rules.multiple, least) for side in (width, height)
        )
        if wide * high <= rules.max_pixels:
            return wide, high
    # If one side was raised to the minimum, the other one must shrink.
    longest = max(rules.max_pixels // least // rules.multiple * rules.multiple, least)
    return min(wide, longest), min(high, longest)


def _size(
    request: GenerateRequest, spec: ModelSpec, family: ModelFamily, warn: Callable[[str], None]
) -> tuple[int, int]:
    rules = family.sizes_of(spec)
    source = _source_size(request, warn)
    requested = (
        _first(request.width, spec.defaults.width, request.height, 512),
        _first(request.height, spec.defaults.height, request.width, 512),
    )
    if source and (request.width is None or request.height is None):
        requested = _in_shape_of(source, request, requested, rules.multiple)
        if request.width is None and request.height is None:
            return adjust_size(*requested, rules)
    adjusted = adjust_size(*requested, rules)
    if adjusted != requested:
        warn(f"dimensions adjusted from {requested[0]}x{requested[1]} to {adjusted[0]}x{adjusted[1]}")
    return adjusted


def _source_size(request: GenerateRequest, warn: Callable[[str], None]) -> tuple[int, int] | None:
    """Return the size of the image or video that a request starts from. Raises ValidationError for damaged images.

    All images are decoded completely, so that a damaged one is refused now and not when the job runs.
    """
    if request.mask_image is not None:
        check_image(request.mask_image, name="mask_image")
    for index, keyframe in enumerate(request.keyframes or ()):
        check_image(keyframe.image, name=f"keyframes[{index}].image")
    if request.source_image is not None:
        return check_image(request.source_image, name="source_image")
    if request.source_video is not None:
        info = probe_video(request.source_video, name="source_video")
        if info.transfer != "sdr":
            warn(f"source_video is HDR ({info.transfer.upper()}) and is converted to SDR")
        return info.width, info.height
    return None


def _in_shape_of(
    source: tuple[int, int], request: GenerateRequest, box: tuple[int, int], multiple: int
) -> tuple[int, int]:
    """Return a size with the aspect ratio of `source`: the largest in the box, or with the requested side."""
    if request.width is None and request.height is None:
        scale = min(box[0] / source[0], box[1] / source[1])
    else:
        scale = box[0] / source[0] if request.width is not None else box[1] / source[1]
    width, height = (max(int(side * scale + 1e-6) // multiple, 1) * multiple for side in source)
    return request.width or width, request.height or height


def _refuse_unsupported(request: GenerateRequest, spec: ModelSpec, family: ModelFamily) -> list[str]:
    """Raise ValidationError for a field that the family does not support; return warnings about ignored fields."""
    ignored = []
    for attribute in attrs.fields(GenerateRequest):
        name, traits = attribute.name, traits_of(attribute)
        if not traits.needs or not _is_set(getattr(request, name)) or family.capabilities.intersection(traits.needs):
            continue
        if traits.optional:
            ignored.append(f"{family.title} has no {name.replace('_', ' ')}; it is ignored")
            continue
        capabilities = ", ".join(sorted(family.capabilities))
        raise ValidationError(
            f"{name} needs a model that can do {traits.needs[0]}; {spec.name} can do {capabilities}",
            field=name,
            hint="leave it out or name another model",
        )
    if request.mask_image is not None and request.source_image is None:
        raise ValidationError("mask_image needs a source_image", field="mask_image")
    _refuse_out_of_bounds(request, spec, family)
    return ignored


def _is_set(value: object) -> bool:
    """Return whether a field has a value other than None, an empty text or an empty list."""
    return value is not None and value not in ("", ())


def _refuse_out_of_bounds(request: GenerateRequest, spec: ModelSpec, family: ModelFamily) -> None:
    for parameter in family.parameters:
        if parameter.type is not None:  # declared by the family; complete_options checks it
            continue
        bounds = Bounds(minimum=parameter.minimum, maximum=parameter.maximum)
        problem = bound_problem(bounds, getattr(request, parameter.name, None))
        if problem:
            raise ValidationError(f"{parameter.name} {problem}, with model {spec.name}", field=parameter.name)


def _first(*values: T | None) -> T:
    return next(value for value in values if value is not None)
