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

__all__ = ["Pass", "SamplingPlan", "sampling_plan_of"]

SpatialKind: TypeAlias = Literal["spatial-x2", "spatial-x1-5"]

_KINDS: dict[str, SpatialKind] = {"x2": "spatial-x2", "x1-5": "spatial-x1-5"}
_SCALES: dict[SpatialKind, Fraction] = {"spatial-x2": Fraction(2), "spatial-x1-5": Fraction(3, 2)}

# The guidance of models that are not distilled, as published.
_GUIDED = {"audio_prompt": 7.0, "skipping": 1.0, "modality": 3.0, "rescale": 0.7}

# The same of `two-stage-hq`, whose steps are of second order, and how much of the distilled LoRA each pass takes.
_GUIDED_HQ = {"audio_prompt": 7.0, "skipping": 0.0, "modality": 3.0, "rescale": 0.45, "audio_rescale": 1.0}
_DISTILLING_HQ = (0.25, 0.5)

# Ways that go over a clip once; all others do so twice where the model has what that takes.
_SINGLE = ("one-stage", "retake")


@frozen(kw_only=True)
class Pass:
    """One time that a clip is denoised.

    `sigmas` are its noise levels; None: `steps` of them, by the length of the clip. `loras` are the LoRAs beside
    the transformer. `shown`: whether the model sees the source video all the time, as in-context LoRAs want it.
    `twice`: whether steps are of second order, which asks the model twice in each.
    """

    guidance: Guidance
    sigmas: tuple[float, ...] | None
    steps: int
    loras: tuple[LoraWeight, ...]
    shown: bool = False
    twice: bool = False


@frozen(kw_only=True)
class SamplingPlan:
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


def sampling_plan_of(
    request: GenerateRequest,
    *,
    distilled: bool,
    sigmas: tuple[float, ...] | None,
    upsamplers: Collection[UpsamplerKind],
    distilled_lora: Path | None,
) -> SamplingPlan:
    """Return how a complete request is made with a model that has these upsamplers.

    A distilled model is not guided and has noise levels of its own: `sigmas`, or LTX-2's. The second pass of a guided
    one is that of a distilled one, by the LoRA `distilled_lora`. In-context LoRAs are for the first pass only.
    """
    asked = _KINDS[request.spatial_upscale] if request.spatial_upscale else None
    wanted = asked or "spatial-x2"
    single = request.pipeline in _SINGLE or request.retake_range is not None
    refined = not single and wanted in upsamplers and (distilled or distilled_lora is not None)
    levels = (sigmas or DISTILLED) if distilled else sigmas
    in_context, twice = request.pipeline == "ic-lora", request.pipeline == "two-stage-hq"
    loras, distilling = request.loras or (), _distilling(None if distilled else distilled_lora, twice)
    first = Pass(
        guidance=Guidance() if distilled else _guided(request),
        sigmas=levels,
        steps=len(levels) if levels else request.steps or 1,
        loras=(*loras, *distilling[0]),
        shown=in_context,
        twice=twice,
    )
    second = Pass(
        guidance=Guidance(),
        sigmas=REFINING,
        steps=len(REFINING),
        loras=() if in_context else (*loras, *distilling[1]),
        twice=twice,
    )
    return SamplingPlan(
        passes=(first, second) if refined else (first,),
        enlarge=wanted if refined else asked,
        doubled=request.temporal_upscale is not None,
    )


def _guided(request: GenerateRequest) -> Guidance:
    published = _GUIDED_HQ if request.pipeline == "two-stage-hq" else _GUIDED
    guidance = Guidance(prompt=request.guidance or 0.0, **published)
    # Sound that is given cannot be moved anywhere.
    return guidance.without_sound() if request.audio_file is not None else guidance


def _distilling(adapter: Path | None, twice: bool) -> tuple[tuple[LoraWeight, ...], tuple[LoraWeight, ...]]:
    """Return what the first and the second pass of a guided model take of the LoRA that makes it a distilled one."""
    if adapter is None:
        return (), ()
    if not twice:
        return (), (LoraWeight(path=str(adapter)),)
    first, second = ((LoraWeight(path=str(adapter), scale=scale),) for scale in _DISTILLING_HQ)
    return first, second
