"""From a request as it came to a request that can run: names, defaults, sizes and seed filled in."""

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

# Seeds drawn for people are short enough to be read out; any up to 2^64-1 may be asked for.
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
    """Return the request with everything filled in, and what had to be adjusted, in words.

    LoRAs are named by their files afterwards, all of them in `loras`; names are looked up in the folder that is
    given, else in that of MOLD_HOME. Raises ValidationError for what the family cannot honour.
    """
    # The request is checked before a family puts its own values in place of those asked for, and again afterwards.
    ignored = _refuse_unsupported(request, spec, family)
    warnings: list[str] = []
    request = attrs.evolve(request, options=complete_options(request.options, family.parameters, spec.name))
    wanted, request = request, family.resolve_inputs(spec, request)
    if request is not wanted:
        _refuse_unsupported(request, spec, family)
    if wanted.steps is not None and request.steps != wanted.steps:
        warnings.append(f"{spec.name} always takes {request.steps} steps; {wanted.steps} is ignored")
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
    """Return the nearest size that the rules allow: scaled to the caps keeping the aspect ratio, then rounded."""
    least = math.ceil(rules.min_side / rules.multiple) * rules.multiple
    most = rules.max_side or math.inf
    scale = min(1.0, math.sqrt(rules.max_pixels / (width * height)), most / max(width, height))
    # Half way rounds up, as people expect; where that leads over the cap again, both sides are rounded down.
    for rounding in (0.5, 0.0):
        wide, high = (
            max(int(side * scale / rules.multiple + rounding) * rules.multiple, least) for side in (width, height)
        )
        if wide * high <= rules.max_pixels:
            return wide, high
    # A side that was raised to the least allowed costs the other one.
    longest = max(rules.max_pixels // least // rules.multiple * rules.multiple, least)
    return min(wide, longest), min(high, longest)


def _size(
    request: GenerateRequest, spec: ModelSpec, family: ModelFamily, warn: Callable[[str], None]
) -> tuple[int, int]:
    rules = family.sizes_of(spec)
    source = _source_size(request, warn)
    wanted = (
        _first(request.width, spec.defaults.width, request.height, 512),
        _first(request.height, spec.defaults.height, request.width, 512),
    )
    if source and (request.width is None or request.height is None):
        wanted = _in_shape_of(source, request, wanted, rules.multiple)
        if request.width is None and request.height is None:
            return adjust_size(*wanted, rules)
    got = adjust_size(*wanted, rules)
    if got != wanted:
        warn(f"dimensions adjusted from {wanted[0]}x{wanted[1]} to {got[0]}x{got[1]}")
    return got


def _source_size(request: GenerateRequest, warn: Callable[[str], None]) -> tuple[int, int] | None:
    """Return the size of the image or video a request starts from. Raises ValidationError for images that are none.

    All images are decoded whole, so that a damaged one is refused now and not when its turn has come.
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
    """Return the size of an image in the shape of another: as large as fits the box, or with the side asked for."""
    if request.width is None and request.height is None:
        scale = min(box[0] / source[0], box[1] / source[1])
    else:
        scale = box[0] / source[0] if request.width is not None else box[1] / source[1]
    width, height = (max(int(side * scale + 1e-6) // multiple, 1) * multiple for side in source)
    return request.width or width, request.height or height


def _refuse_unsupported(request: GenerateRequest, spec: ModelSpec, family: ModelFamily) -> list[str]:
    """Raise ValidationError for a field that the family cannot honour; return warnings of those that it ignores."""
    ignored = []
    for attribute in attrs.fields(GenerateRequest):
        name, traits = attribute.name, traits_of(attribute)
        if not traits.needs or not _is_set(getattr(request, name)) or family.capabilities.intersection(traits.needs):
            continue
        if traits.optional:
            ignored.append(f"{family.title} has no {name.replace('_', ' ')}; it is ignored")
            continue
        able = ", ".join(sorted(family.capabilities))
        raise ValidationError(
            f"{name} needs a model that can do {traits.needs[0]}; {spec.name} can do {able}",
            field=name,
            hint="leave it out or name another model",
        )
    if request.mask_image is not None and request.source_image is None:
        raise ValidationError("mask_image needs a source_image to repaint", field="mask_image")
    _refuse_out_of_bounds(request, spec, family)
    return ignored


def _is_set(value: object) -> bool:
    """Say whether a field asks for anything: an empty text or list asks for nothing."""
    return value is not None and value not in ("", ())


def _refuse_out_of_bounds(request: GenerateRequest, spec: ModelSpec, family: ModelFamily) -> None:
    for parameter in family.parameters:
        if parameter.type is not None:  # one of the family's own, which complete_options checks
            continue
        bounds = Bounds(minimum=parameter.minimum, maximum=parameter.maximum)
        problem = bound_problem(bounds, getattr(request, parameter.name, None))
        if problem:
            raise ValidationError(f"{parameter.name} {problem}, with model {spec.name}", field=parameter.name)


def _first(*values: T | None) -> T:
    return next(value for value in values if value is not None)
