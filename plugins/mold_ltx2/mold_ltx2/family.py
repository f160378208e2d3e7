"""The family `ltx2`: what LTX-2 can do, and how one of its models is loaded. torch is imported only when one is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mold_core import Parameter, SizeRules, ValidationError

if TYPE_CHECKING:
    from mold_core import GenerateRequest, LoadContext, LocalFiles, ModelSpec, Pipeline

__all__ = ["Ltx2Family"]

# Fields of videos that other engines for LTX-2 know and this one does not, or not yet.
_UNKNOWN = ("audio_file", "source_video", "retake_range", "spatial_upscale", "temporal_upscale", "loras", "lora")
_PIPELINES = ("one-stage", "distilled", "two-stage", "keyframe")


class Ltx2Family:
    """LTX-2 by Lightricks: video with sound, from words and pictures."""

    name = "ltx2"
    title = "LTX-2"
    capabilities = frozenset({"text-to-video", "image-to-video", "negative-prompt"})
    sizes = SizeRules(
        multiple=32,
        max_pixels=1_800_000,
        min_side=64,
        recommended=((1216, 704), (704, 1216), (960, 544), (768, 512)),
    )
    parameters = (
        Parameter(name="prompt", doc="What the video shows, and what is heard."),
        Parameter(name="width", doc="Width in pixels, a multiple of 32."),
        Parameter(name="height", doc="Height in pixels, a multiple of 32."),
        Parameter(name="frames", doc="Frames, of the form 8n+1.", minimum=1, maximum=257),
        Parameter(name="fps", doc="Frames per second.", minimum=1, maximum=60),
        Parameter(name="seed", doc="The same seed gives the same video."),
        Parameter(name="source_image", doc="Picture that the video begins with."),
        Parameter(name="strength", doc="How surely it begins with that picture."),
        Parameter(name="keyframes", doc="Pictures that the video shows at given frames."),
        Parameter(name="enable_audio", doc="Whether there is sound."),
        Parameter(name="steps", doc="Denoising steps of models that are not distilled.", minimum=1, maximum=100),
        Parameter(name="guidance", doc="Guidance of models that are not distilled.", minimum=0, maximum=20),
    )

    def sizes_of(self, spec: ModelSpec) -> SizeRules:
        """Return the size rules of one model: a spec may bring its own in ``options.sizes``."""
        own: dict[str, Any] | None = spec.options.get("sizes")
        if own is None:
            return self.sizes
        recommended = tuple((width, height) for width, height in own["recommended"])
        return SizeRules(**{**own, "recommended": recommended})

    def check(self, spec: ModelSpec, request: GenerateRequest) -> None:
        """Raise ValidationError for what LTX-2 cannot honour."""
        frames = request.frames or 1
        if frames % 8 != 1:
            below = (frames - 1) // 8 * 8 + 1
            raise ValidationError(
                f"frames must be of the form 8n+1, not {frames}",
                field="frames",
                value=frames,
                hint=f"the nearest are {below} and {below + 8}",
            )
        for name in _UNKNOWN:
            if getattr(request, name) is not None:
                raise ValidationError(f"{name} is not supported for LTX-2 yet", field=name, hint="leave it out")
        if request.pipeline is not None and request.pipeline not in _PIPELINES:
            raise ValidationError(
                f"pipeline {request.pipeline!r} is not supported yet",
                field="pipeline",
                value=request.pipeline,
                hint=f"use one of {', '.join(_PIPELINES)}",
            )
        _check_keyframes(request, frames)

    def warm(self) -> None:
        """Import what loading a model needs, but not diffusers, which takes seconds and not every worker needs."""
        import mold_ltx2.loading  # noqa: F401

    def load(self, spec: ModelSpec, files: LocalFiles, context: LoadContext) -> Pipeline:
        """Return the model ready to run. Raises CheckpointError when the files are not an LTX-2 model."""
        from mold_ltx2.loading import load_pipeline

        return load_pipeline(spec, files, context)


def _check_keyframes(request: GenerateRequest, frames: int) -> None:
    seen: set[int] = set()
    for index, keyframe in enumerate(request.keyframes or ()):
        field = f"keyframes[{index}].frame"
        if keyframe.frame >= frames:
            raise ValidationError(
                f"{field} is {keyframe.frame}, and the video has {frames} frames", field=field, value=keyframe.frame
            )
        if keyframe.frame in seen:
            raise ValidationError(f"{field} {keyframe.frame} is given twice", field=field, value=keyframe.frame)
        seen.add(keyframe.frame)
