"""Converts a chain request of either form to clips: validates it, divides it, and counts frames."""

from __future__ import annotations

import math

import attrs

from mold_core.deprecated import CLIP_RULES
from mold_core.errors import ValidationError
from mold_core.hookspecs import ChainRenderer
from mold_core.wire.chain import MAX_STAGES, ChainRequest, ChainStage

__all__ = ["ChainPlan", "ClipRules", "overlap_frames", "plan"]

_DEFAULT_FADE_FRAMES = 8


@attrs.frozen(kw_only=True)
class ClipRules:
    """How many frames a clip can have, as its renderer declares it. The defaults allow any number.

    `stride`: a clip has a multiple of it and one frame more. `default`: frames of a clip where a request names none;
    None: the whole video is one clip. `largest`: the longest clip that clients offer.
    """

    stride: int = 1
    default: int | None = None
    largest: int | None = None

    @classmethod
    def of(cls, renderer: ChainRenderer | None) -> ClipRules:
        """Return the rules of a renderer; the defaults where there is no renderer."""
        if renderer is None:
            return cls()
        return cls(
            stride=getattr(renderer, "frame_stride", CLIP_RULES["frame_stride"]),
            default=getattr(renderer, "default_clip_frames", CLIP_RULES["default_clip_frames"]),
            largest=getattr(renderer, "max_clip_frames", CLIP_RULES["max_clip_frames"]),
        )


@attrs.frozen(kw_only=True)
class ChainPlan:
    """The clips of a chain and their frame counts.

    `overlap`: frames that a clip shares with the one it continues. `emitted`: frames each clip adds to the video.
    `total_frames`: frames of the video after surplus frames at its end are cut off.
    """

    stages: tuple[ChainStage, ...]
    overlap: int
    emitted: tuple[int, ...]
    total_frames: int

    @property
    def rendered_frames(self) -> int:
        """Frames of all clips without overlaps, before the end is cut off."""
        return sum(self.emitted)


def overlap_frames(tail: int, stride: int) -> int:
    """Return how many frames clips share so that the later one sees at least `tail` frames of the earlier.

    The first latent encodes one frame and every other latent `stride` frames, so with a stride of 8 overlaps are 1, 9,
    17, …; a tail of 0 means no overlap.
    """
    return stride * math.ceil((tail - 1) / stride) + 1 if tail else 0


def plan(request: ChainRequest, rules: ClipRules) -> ChainPlan:
    """Return the clips of a request of either form.

    Raises ValidationError with the field and a hint.
    """
    stages = tuple(_authored(request) if request.stages else _divided(request, rules))
    if len(stages) > MAX_STAGES:
        raise ValidationError(f"stages has {len(stages)} entries; maximum is {MAX_STAGES}", field="stages")
    for index, stage in enumerate(stages):
        _check_stage(index, stage, request.motion_tail_frames, rules.stride)
    overlap = overlap_frames(request.motion_tail_frames, rules.stride)
    if len(stages) > 1:
        _check_overlap(stages, overlap, request.motion_tail_frames)
        _check_fades(stages, overlap)
    emitted = tuple(_emitted(index, stage, overlap) for index, stage in enumerate(stages))
    total = None if request.stages else request.total_frames
    return ChainPlan(stages=stages, overlap=overlap, emitted=emitted, total_frames=total or sum(emitted))


def _authored(request: ChainRequest) -> list[ChainStage]:
    """Return the stages of the request. The first stage follows no other, so it has no transition."""
    first, *rest = request.stages
    return [attrs.evolve(first, transition="smooth", fade_frames=None), *map(_with_fade, rest)]


def _with_fade(stage: ChainStage) -> ChainStage:
    """Return the stage with `fade_frames` set if its transition is a fade, and unset otherwise."""
    frames = (stage.fade_frames or _DEFAULT_FADE_FRAMES) if stage.transition == "fade" else None
    return attrs.evolve(stage, fade_frames=frames)


def _divided(request: ChainRequest, rules: ClipRules) -> list[ChainStage]:
    """Return clips of equal length that have at least `total_frames` together."""
    prompt, total = request.prompt or "", _required_frames(request)
    clip = rules.default or total if request.clip_frames is None else request.clip_frames
    _check_form("clip_frames", clip, rules.stride)
    _check_tail("clip_frames", clip, request.motion_tail_frames)
    if total <= clip:
        _check_form("total_frames", total, rules.stride)
        return [ChainStage(prompt=prompt, frames=total, source_image=request.source_image)]
    count = _stages_for(total, clip, overlap_frames(request.motion_tail_frames, rules.stride))
    return [
        ChainStage(prompt=prompt, frames=clip, source_image=None if index else request.source_image)
        for index in range(count)
    ]


def _required_frames(request: ChainRequest) -> int:
    """Return `total_frames` of a request without stages, after checking the fields that this form requires."""
    if not (request.prompt or "").strip():
        raise ValidationError("a chain needs either stages, or prompt and total_frames", field="prompt")
    if request.total_frames is None:
        raise ValidationError("total_frames is required without stages", field="total_frames")
    for name, value in (("total_frames", request.total_frames), ("clip_frames", request.clip_frames)):
        if value is not None and value <= 0:
            raise ValidationError(f"{name} must be at least 1, not {value}", field=name, value=value)
    return request.total_frames


def _stages_for(total: int, clip: int, overlap: int) -> int:
    hint = "ask for fewer frames, longer clips or a shorter motion tail"
    if overlap >= clip:
        raise ValidationError(
            f"motion_tail_frames makes clips overlap by {overlap} frames, so clips of {clip} frames never add up to "
            f"{total}",
            field="motion_tail_frames",
            hint=hint,
        )
    count = 1 + math.ceil((total - clip) / (clip - overlap))
    if count > MAX_STAGES:
        raise ValidationError(
            f"{total} frames in clips of {clip} would take {count} stages; maximum is {MAX_STAGES}",
            field="total_frames",
            value=total,
            hint=hint,
        )
    return count


def _check_stage(index: int, stage: ChainStage, tail: int, stride: int) -> None:
    field = f"stages[{index}].frames"
    if stage.frames <= 0:
        raise ValidationError(f"{field} must be at least 1, not {stage.frames}", field=field, value=stage.frames)
    _check_form(field, stage.frames, stride)
    _check_tail(field, stage.frames, tail)


def _check_overlap(stages: tuple[ChainStage, ...], overlap: int, tail: int) -> None:
    for index, stage in enumerate(stages):
        if overlap >= stage.frames:
            raise ValidationError(
                f"motion_tail_frames {tail} makes clips overlap by {overlap} frames, and stages[{index}] has only "
                f"{stage.frames}",
                field=f"stages[{index}].frames",
                value=stage.frames,
                hint="make the stage longer or the motion tail shorter",
            )


def _check_fades(stages: tuple[ChainStage, ...], overlap: int) -> None:
    """Refuse fades that would cover all frames of a clip or overlap inside it."""
    fades = [*(stage.fade_frames or 0 for stage in stages), 0]
    for index, stage in enumerate(stages):
        emitted = stage.frames - (overlap if index and stage.transition == "smooth" else 0)
        if fades[index] + fades[index + 1] >= emitted:
            culprit = index + 1 if fades[index + 1] else index
            raise ValidationError(
                f"stages[{culprit}].fade_frames ({fades[culprit]}) is too long: stages[{index}] adds {emitted} "
                f"frames to the video, and fades take {fades[index] + fades[index + 1]} of them",
                field=f"stages[{culprit}].fade_frames",
                value=fades[culprit],
                hint="make the fade shorter or the stage longer",
            )


def _check_tail(field: str, frames: int, tail: int) -> None:
    if tail >= frames:
        raise ValidationError(
            f"motion_tail_frames ({tail}) must be less than {field} ({frames})", field="motion_tail_frames", value=tail
        )


def _check_form(field: str, frames: int, stride: int) -> None:
    if (frames - 1) % stride:
        below = max(frames - 1, 0) // stride * stride + 1
        raise ValidationError(
            f"{field} must be of the form {stride}n+1, not {frames}",
            field=field,
            value=frames,
            hint=f"the nearest are {below} and {below + stride}",
        )


def _emitted(index: int, stage: ChainStage, overlap: int) -> int:
    if index == 0 or stage.transition == "cut":
        return stage.frames
    return stage.frames - (stage.fade_frames or overlap)
