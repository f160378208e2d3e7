"""The sampling plan of a request: how many passes, at what size, with which noise levels and guidance."""

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

_SPATIAL_KINDS: dict[str, SpatialKind] = {"x2": "spatial-x2", "x1-5": "spatial-x1-5"}
_SCALES: dict[SpatialKind, Fraction] = {"spatial-x2": Fraction(2), "spatial-x1-5": Fraction(3, 2)}

# The guidance of models that are not distilled, as published.
_GUIDED = {"audio_prompt": 7.0, "skipped_attention": 1.0, "modality": 3.0, "rescale": 0.7}

# The same for `two-stage-hq`, whose steps are of second order, and the scale of the distilled LoRA in each pass.
_GUIDED_HQ = {"audio_prompt": 7.0, "skipped_attention": 0.0, "modality": 3.0, "rescale": 0.45, "audio_rescale": 1.0}
_DISTILLED_SCALES_HQ = (0.25, 0.5)

# Pipelines of one pass. All others have two if the model has the files for it.
_SINGLE = ("one-stage", "retake")


@frozen(kw_only=True)
class Pass:
    """One pass of denoising over a clip.

    `sigmas` are its noise levels; None means `steps` levels, which depend on the length of the clip. `loras` are the
    LoRAs of the transformer. `uses_reference`: the source video is a reference, which in-context LoRAs need.
    `second_order`: steps are of second order and call the model second_order.
    """

    guidance: Guidance
    sigmas: tuple[float, ...] | None
    steps: int
    loras: tuple[LoraWeight, ...]
    uses_reference: bool = False
    second_order: bool = False


@frozen(kw_only=True)
class SamplingPlan:
    """How a clip is generated.

    The first pass is `scale` times smaller than the result. With `doubled` it has half of the frames, and an upsampler
    doubles them at the end. After the first pass, the upsampler `enlarge` brings the latents to the size of the result.
    """

    passes: tuple[Pass, ...]
    enlarge: SpatialKind | None
    doubled: bool

    @property
    def scale(self) -> Fraction:
        """How many times smaller the first pass is."""
        return _SCALES[self.enlarge] if self.enlarge else Fraction(1)

    @property
    def steps(self) -> int:
        """Denoising steps of all passes."""
        return sum(one.steps for one in self.passes)

    @property
    def upsamplers(self) -> tuple[UpsamplerKind, ...]:
        """The upsamplers that it uses."""
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
    """Return the plan of a complete request for a model that has these upsamplers.

    A distilled model has no guidance and fixed noise levels: `sigmas`, or those of LTX-2. The second pass of a guided
    model is that of a distilled one, with the LoRA `distilled_lora`. In-context LoRAs apply to the first pass only.
    """
    requested = _SPATIAL_KINDS[request.spatial_upscale] if request.spatial_upscale else None
    kind = requested or "spatial-x2"
    single = request.pipeline in _SINGLE or request.retake_range is not None
    refined = not single and kind in upsamplers and (distilled or distilled_lora is not None)
    levels = (sigmas or DISTILLED) if distilled else sigmas
    in_context, second_order = request.pipeline == "ic-lora", request.pipeline == "two-stage-hq"
    loras, distilled_loras = request.loras or (), _distilled_loras(None if distilled else distilled_lora, second_order)
    first = Pass(
        guidance=Guidance() if distilled else _guided(request),
        sigmas=levels,
        steps=len(levels) if levels else request.steps or 1,
        loras=(*loras, *distilled_loras[0]),
        uses_reference=in_context,
        second_order=second_order,
    )
    second = Pass(
        guidance=Guidance(),
        sigmas=REFINING,
        steps=len(REFINING),
        loras=() if in_context else (*loras, *distilled_loras[1]),
        second_order=second_order,
    )
    return SamplingPlan(
        passes=(first, second) if refined else (first,),
        enlarge=kind if refined else requested,
        doubled=request.temporal_upscale is not None,
    )


def _guided(request: GenerateRequest) -> Guidance:
    published = _GUIDED_HQ if request.pipeline == "two-stage-hq" else _GUIDED
    guidance = Guidance(prompt=request.guidance or 0.0, **published)
    # Guidance cannot change audio that is fixed.
    return guidance.without_sound() if request.audio_file is not None else guidance


def _distilled_loras(
    lora_path: Path | None, second_order: bool
) -> tuple[tuple[LoraWeight, ...], tuple[LoraWeight, ...]]:
    """Return the distilled LoRA for the first and the second pass of a guided model."""
    if lora_path is None:
        return (), ()
    if not second_order:
        return (), (LoraWeight(path=str(lora_path)),)
    first, second = ((LoraWeight(path=str(lora_path), scale=scale),) for scale in _DISTILLED_SCALES_HQ)
    return first, second
