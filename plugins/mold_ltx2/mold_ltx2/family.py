"""The family `ltx2`: its capabilities, parameters and models. Imports torch only to load a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mold_core import LoraShorthand, ModelFamily, Parameter, SizeRules
from mold_core.families import sizes_from_options

if TYPE_CHECKING:
    from mold_core import GenerateRequest, LoadContext, LocalFiles, ModelComponent, ModelSpec, Pipeline

__all__ = ["Ltx2Family"]


class Ltx2Family(ModelFamily):
    """LTX-2 by Lightricks: video with audio, from text, images, video and audio."""

    name = "ltx2"
    title = "LTX-2"
    capabilities = frozenset({"text-to-video", "image-to-video", "negative-prompt", "lora"})
    sizes = SizeRules(
        multiple=32,
        max_pixels=1_800_000,
        min_side=64,
        recommended=((1216, 704), (704, 1216), (960, 544), (768, 512)),
    )
    parameters = (
        Parameter(name="prompt", doc="What the video shows, and its sound."),
        Parameter(name="width", doc="Width in pixels, a multiple of 32."),
        Parameter(name="height", doc="Height in pixels, a multiple of 32."),
        Parameter(name="frames", doc="Frames, of the form 8n+1.", minimum=1, maximum=257),
        Parameter(name="fps", doc="Frames per second.", minimum=1, maximum=60),
        Parameter(name="seed", doc="The same seed gives the same video."),
        Parameter(name="source_image", doc="First frame of the video."),
        Parameter(name="strength", doc="Strength of source_image: 1 keeps it exactly, 0 ignores it."),
        Parameter(name="keyframes", doc="Images to show at given frames."),
        Parameter(name="source_video", doc="MP4 to continue from, or to regenerate within retake_range."),
        Parameter(name="retake_range", doc="Part of source_video to regenerate; the rest stays."),
        Parameter(name="audio_file", doc="Sound of the video, which is generated to match it."),
        Parameter(name="pipeline", doc="Sampling pipeline. By default it follows from the inputs and the model."),
        Parameter(name="spatial_upscale", doc="Generate at 1/x of the size, then upsample the latents."),
        Parameter(name="temporal_upscale", doc="x2: generate every second frame, then upsample the latents in time."),
        Parameter(name="loras", doc="LoRAs, by name or path, each with its scale."),
        Parameter(name="enable_audio", doc="Generate audio."),
        Parameter(name="steps", doc="Denoising steps of models that are not distilled.", minimum=1, maximum=100),
        Parameter(name="guidance", doc="Guidance of models that are not distilled.", minimum=0, maximum=20),
    )
    lora_shorthands = (
        LoraShorthand(
            group="camera-control",
            doc="Camera movement, for models with camera LoRAs: dolly-in, jib-up, static …",
        ),
    )

    def sizes_of(self, spec: ModelSpec) -> SizeRules:
        """Return the size rules of a model: those in ``options.sizes``, else those of the family."""
        return sizes_from_options(spec, self.sizes)

    def resolve_inputs(self, spec: ModelSpec, request: GenerateRequest) -> GenerateRequest:
        """Return the request with values that follow from its source video and from the model."""
        from mold_ltx2.checks import resolve_inputs

        return resolve_inputs(spec, request)

    def check(self, spec: ModelSpec, request: GenerateRequest) -> None:
        """Raise ValidationError for a request that LTX-2 cannot fulfil."""
        from mold_ltx2.checks import check

        check(spec, request)

    def components(self, spec: ModelSpec, files: LocalFiles, context: LoadContext) -> tuple[ModelComponent, ...]:
        """Return the sizes of text encoder, connectors, transformer, autoencoders and upsamplers in memory."""
        from mold_ltx2.component_sizes import model_components

        return model_components(spec, files, context)

    def warm(self) -> None:
        """Import what loading a model needs, without diffusers, which takes seconds and not every worker needs."""
        import mold_ltx2.loading  # noqa: F401

    def load(self, spec: ModelSpec, files: LocalFiles, context: LoadContext) -> Pipeline:
        """Return the pipeline of a model. Raises CheckpointError if the files are not an LTX-2 model."""
        from mold_ltx2.loading import load_pipeline

        return load_pipeline(spec, files, context)
