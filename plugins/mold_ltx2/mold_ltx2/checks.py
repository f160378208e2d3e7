"""Check requests for a video, and resolve defaults from their media. Does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from mold_core import ValidationError
from mold_core.media import probe_sound, probe_video

if TYPE_CHECKING:
    from mold_core import GenerateRequest, ModelSpec
    from mold_core.media import VideoInfo
    from mold_ltx2.upsampling_files import UpsamplerKind

__all__ = ["check", "lacking_upsampler", "resolve_inputs"]

_STEPS_HQ = 15
_STEPS_DISTILLED = 8
_STRIDE = 8

# The field and value that need an upsampler, and a hint.
_UPSAMPLER_FIELDS: dict[UpsamplerKind, tuple[str, str, str]] = {
    "spatial-x2": ("spatial_upscale", "x2", "leave it out, or use ltx-2-19b-distilled, which has one"),
    "spatial-x1-5": ("spatial_upscale", "x1-5", "leave it out, or use ltx-2.3-22b-distilled, which has one"),
    "temporal-x2": ("temporal_upscale", "x2", "leave it out, or use ltx-2-19b-distilled, which has one"),
}


def resolve_inputs(spec: ModelSpec, request: GenerateRequest) -> GenerateRequest:
    """Return the request with values that follow from its source video and from the model.

    The frame rate is that of the source video. Retakes and `ic-lora` also take its number of frames, and retakes its
    size. A distilled model always takes the steps that it was trained for. `two-stage-hq` takes fewer steps by default,
    because each is twice the work.
    """
    if spec.options.get("distilled"):
        request = attrs.evolve(request, steps=spec.defaults.steps or _STEPS_DISTILLED)
    elif request.pipeline == "two-stage-hq":
        request = attrs.evolve(request, steps=request.steps or _STEPS_HQ)
    if request.source_video is None:
        return request
    info = _probed(request.source_video)
    request = attrs.evolve(request, fps=request.fps or round(info.fps))
    if request.retake_range is None and request.pipeline != "ic-lora":
        return request
    request = attrs.evolve(request, frames=request.frames or _whole_latents(info.frames_at(request.fps or 1)))
    if request.retake_range is None:
        return request
    return attrs.evolve(
        request,
        width=request.width or info.width,
        height=request.height or info.height,
    )


def check(spec: ModelSpec, request: GenerateRequest) -> None:
    """Raise ValidationError for a complete request that LTX-2 cannot fulfil."""
    frames = request.frames or 1
    _check_frames(frames, 2 * _STRIDE if request.temporal_upscale else _STRIDE)
    _check_keyframes(request, frames)
    _check_retake(request)
    if request.source_video is not None:
        _check_source(request, request.source_video, frames)
    if request.audio_file is not None:
        _check_sound(request, request.audio_file, frames)
    _check_pipeline(spec, request)
    _check_upsamplers(spec, request)


def lacking_upsampler(model: str, kind: UpsamplerKind) -> ValidationError:
    """Return the error for a request that needs an upsampler which the model lacks."""
    field, value, hint = _UPSAMPLER_FIELDS[kind]
    return ValidationError(
        f"{field} {value} needs an upsampler of latents, and {model} has none of that kind",
        field=field,
        value=value,
        hint=hint,
    )


def _check_frames(frames: int, step: int) -> None:
    if frames % step != 1:
        below = (frames - 1) // step * step + 1
        condition = "" if step == _STRIDE else " with temporal_upscale x2"
        raise ValidationError(
            f"frames must be of the form {step}n+1{condition}, not {frames}",
            field="frames",
            value=frames,
            hint=f"the nearest are {below} and {below + step}",
        )


def _check_keyframes(request: GenerateRequest, frames: int) -> None:
    seen: set[int] = set()
    for index, keyframe in enumerate(request.keyframes or ()):
        field = f"keyframes[{index}].frame"
        if keyframe.frame >= frames:
            raise ValidationError(
                f"{field} is {keyframe.frame}, and the video has {frames} frames", field=field, value=keyframe.frame
            )
        if keyframe.frame in seen:
            raise ValidationError(f"{field} {keyframe.frame} occurs twice", field=field, value=keyframe.frame)
        seen.add(keyframe.frame)


def _check_retake(request: GenerateRequest) -> None:
    retake = request.retake_range
    if retake is None:
        return
    if request.source_video is None:
        raise ValidationError(
            "retake_range needs a source_video to regenerate a part of",
            field="retake_range",
            hint="add source_video, or leave retake_range out",
        )
    if retake.end_seconds <= retake.start_seconds:
        raise ValidationError(
            f"retake_range.end_seconds is {retake.end_seconds:g}, which is not after its start at"
            f" {retake.start_seconds:g}",
            field="retake_range.end_seconds",
            value=retake.end_seconds,
        )
    for name in ("spatial_upscale", "temporal_upscale"):
        if getattr(request, name) is not None:
            raise ValidationError(
                f"{name} cannot be used with a retake, which keeps the size and the rate of the video",
                field=name,
                hint="leave it out; mold upscale upscales a finished video",
            )


def _check_source(request: GenerateRequest, video: bytes, frames: int) -> None:
    in_context = request.pipeline == "ic-lora"
    if request.source_image is not None and not in_context:
        raise ValidationError(
            "source_image and source_video both define how the clip begins",
            field="source_image",
            hint="use one of them",
        )
    info = _probed(video)
    if request.fps != round(info.fps):
        raise ValidationError(
            f"fps is {request.fps}, and the source_video has {info.fps:g}",
            field="fps",
            value=request.fps,
            hint="leave fps out",
        )
    if in_context:
        return
    count, retake = info.frames_at(request.fps), request.retake_range
    if retake is None:
        _check_prefix(count, frames)
    elif frames > count:
        raise ValidationError(
            f"frames is {frames}, and the source_video has {count}",
            field="frames",
            value=frames,
            hint="a retake keeps the length of the video: leave frames out",
        )
    elif retake.end_seconds > count / request.fps + 1e-6:
        raise ValidationError(
            f"retake_range ends at {retake.end_seconds:g} s, and the source_video has {count / request.fps:.2f} s",
            field="retake_range.end_seconds",
            value=retake.end_seconds,
        )
    elif retake.start_seconds >= frames / request.fps:
        raise ValidationError(
            f"retake_range begins at {retake.start_seconds:g} s, and the {frames} frames of the source_video that"
            f" are used end at {frames / request.fps:.2f} s",
            field="retake_range.start_seconds",
            value=retake.start_seconds,
        )


def _check_prefix(count: int, frames: int) -> None:
    if _whole_latents(count) >= frames:
        raise ValidationError(
            f"the source_video has {count} frames and the request {frames}: nothing is left to generate",
            field="frames",
            value=frames,
            hint="request more frames, or set retake_range to regenerate a part",
        )


def _check_sound(request: GenerateRequest, data: bytes, frames: int) -> None:
    if probe_sound(data, max_seconds=frames / (request.fps or 1), name="audio_file") is None:
        raise ValidationError(
            "audio_file contains no audio", field="audio_file", hint="use WAV, MP3, FLAC, Ogg, M4A or the like"
        )


def _check_pipeline(spec: ModelSpec, request: GenerateRequest) -> None:
    pipeline, distilled = request.pipeline, bool(spec.options.get("distilled"))
    if request.retake_range is not None and pipeline not in (None, "retake"):
        raise _refused(
            request, "generates a whole clip, and retake_range requests a part", "use retake, or leave it out"
        )
    match pipeline:
        case "ic-lora" if not distilled:
            raise _refused(request, f"is for distilled models, and {spec.name} is guided", "use a distilled model")
        case "ic-lora" if request.source_video is None:
            raise _refused(request, "needs a reference video", "set source_video")
        case "ic-lora" if not request.loras:
            raise _refused(request, "needs an in-context LoRA", "add it to loras")
        case "distilled" if not distilled:
            raise _refused(
                request,
                f"is for distilled models, and {spec.name} is guided",
                "leave it out, or use a distilled model",
            )
        case "two-stage" | "two-stage-hq" if distilled:
            raise _refused(
                request,
                f"is for guided models, and {spec.name} is distilled",
                "use distilled, which also has two passes",
            )
        case "two-stage" | "two-stage-hq":
            components = {file.component for file in spec.files}
            for component in ("spatial_upscaler", "distilled_lora"):
                if component not in components:
                    raise _refused(
                        request,
                        f"needs a file {component}, and {spec.name} has none",
                        "use ltx-2-19b-dev, which has it",
                    )
        case "a2-vid" if request.audio_file is None:
            raise _refused(request, "generates a video for audio", "set audio_file")
        case "retake" if request.retake_range is None:
            raise _refused(request, "regenerates a part of a video", "set source_video and retake_range")
        case "keyframe" if len(request.keyframes or ()) < 2:
            raise _refused(request, "interpolates between images", "add two keyframes or more")


def _refused(request: GenerateRequest, why: str, hint: str) -> ValidationError:
    return ValidationError(f"pipeline {request.pipeline!r} {why}", field="pipeline", value=request.pipeline, hint=hint)


def _check_upsamplers(spec: ModelSpec, request: GenerateRequest) -> None:
    """Refuse upsampling that needs a file which the model lacks. The content of files is checked on loading."""
    components = {file.component for file in spec.files}
    if request.spatial_upscale is not None and "spatial_upscaler" not in components:
        raise lacking_upsampler(spec.name, "spatial-x1-5" if request.spatial_upscale == "x1-5" else "spatial-x2")
    if request.temporal_upscale is not None and "temporal_upscaler" not in components:
        raise lacking_upsampler(spec.name, "temporal-x2")


def _probed(video: bytes) -> VideoInfo:
    info = probe_video(video, name="source_video")
    if not info.fps:
        raise ValidationError("source_video has no frame rate", field="source_video")
    return info


def _whole_latents(frames: int) -> int:
    """Return the frames that whole latents cover."""
    return max(frames - 1, 0) // _STRIDE * _STRIDE + 1
