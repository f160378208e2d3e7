"""What a request makes of a model: how many passes, at what size, with which noise levels and what guidance."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Literal, TypeAlias

from attrs import frozen

from mold_core import LoraWeight
from mold_ltx2.sampling import DISTILLED, REFINING, Guidance

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from mold_core import GenerateRequest
    from mold_ltx2.upsampling_files import UpsamplerKind

__all__ = ["Pass", "Recipe", "recipe_of"]

SpatialKind: TypeAlias = Literal["spatial-x2", "spatial-x1-5"]

_KINDS: dict[str, SpatialKind] = {"x2": "spatial-x2", "x1-5": "spatial-x1-5"}
_SCALES: dict[SpatialKind, Fraction] = {"spatial-x2": Fraction(2), "spatial-x1-5": Fraction(3, 2)}

# The guidance of models that are not distilled, as published.
_GUIDED = {"audio_prompt": 7.0, "skipping": 1.0, "modality": 3.0, "rescale": 0.7}

# Ways that go over a clip once; all others do so twice where the model has what that takes.
_SINGLE = ("one-stage", "retake")


@frozen(kw_only=True)
class Pass:
    """One time that a clip is denoised.

    `sigmas` are its noise levels; None: `steps` of them, by the length of the clip. `loras` are the adapters beside
    the transformer. `shown`: whether the model sees the source video all the time, as in-context adapters want it.
    """

    guidance: Guidance
    sigmas: tuple[float, ...] | None
    steps: int
    loras: tuple[LoraWeight, ...]
    shown: bool = False


@frozen(kw_only=True)
class Recipe:
    """How a clip is made. Its first pass is `scale` times smaller than the result, its frames half as many where they
    are `doubled` in the end.

    Between the passes, or after the only one, the upsampler `enlarge` makes the latents as large as they shall be.
    """

    passes: tuple[Pass, ...]
    enlarge: SpatialKind | None
    doubled: bool

    @property
    def scale(self) -> Fraction:
        """How much smaller the first pass is."""
        return _SCALES[self.enlarge] if self.enlarge else Fraction(1)

    @property
    def steps(self) -> int:
        """Denoising steps of all passes."""
        return sum(one.steps for one in self.passes)

    @property
    def upsamplers(self) -> tuple[UpsamplerKind, ...]:
        """The upsamplers it takes."""
        larger: tuple[UpsamplerKind, ...] = (self.enlarge,) if self.enlarge else ()
        return (*larger, "temporal-x2") if self.doubled else larger


def recipe_of(
    request: GenerateRequest,
    *,
    distilled: bool,
    sigmas: tuple[float, ...] | None,
    upsamplers: Collection[UpsamplerKind],
    distilled_lora: Path | None,
) -> Recipe:
    """Return how a complete request is made with a model that has these upsamplers.

    A distilled model is not guided and has noise levels of its own: `sigmas`, or LTX-2's. The second pass of a guided
    one is that of a distilled one, by the adapter `distilled_lora`. In-context adapters are for the first pass only.
    """
    asked = _KINDS[request.spatial_upscale] if request.spatial_upscale else None
    wanted = asked or "spatial-x2"
    single = request.pipeline in _SINGLE or request.retake_range is not None
    refined = not single and wanted in upsamplers and (distilled or distilled_lora is not None)
    levels = (sigmas or DISTILLED) if distilled else sigmas
    in_context, loras = request.pipeline == "ic-lora", request.loras or ()
    first = Pass(
        guidance=Guidance() if distilled else _guided(request),
        sigmas=levels,
        steps=len(levels) if levels else request.steps or 1,
        loras=loras,
        shown=in_context,
    )
    distilling = () if distilled or distilled_lora is None else (LoraWeight(path=str(distilled_lora)),)
    second = Pass(
        guidance=Guidance(),
        sigmas=REFINING,
        steps=len(REFINING),
        loras=() if in_context else (*loras, *distilling),
    )
    return Recipe(
        passes=(first, second) if refined else (first,),
        enlarge=wanted if refined else asked,
        doubled=request.temporal_upscale is not None,
    )


def _guided(request: GenerateRequest) -> Guidance:
    guidance = Guidance(prompt=request.guidance or 0.0, **_GUIDED)
    # Sound that is given cannot be moved anywhere.
    return guidance.without_sound() if request.audio_file is not None else guidance
