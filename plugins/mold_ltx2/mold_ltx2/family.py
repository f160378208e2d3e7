"""The family `ltx2`: what LTX-2 can do, and how one of its models is loaded. torch is imported only when one is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mold_core import ModelFamily, Parameter, SizeRules
from mold_core.families import sizes_from_options

if TYPE_CHECKING:
    from mold_core import GenerateRequest, LoadContext, LocalFiles, ModelComponent, ModelSpec, Pipeline

__all__ = ["Ltx2Family"]


class Ltx2Family(ModelFamily):
    """LTX-2 by Lightricks: video with sound, from words and images."""

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
        Parameter(name="prompt", doc="What the video shows, and what is heard."),
        Parameter(name="width", doc="Width in pixels, a multiple of 32."),
        Parameter(name="height", doc="Height in pixels, a multiple of 32."),
        Parameter(name="frames", doc="Frames, of the form 8n+1.", minimum=1, maximum=257),
        Parameter(name="fps", doc="Frames per second.", minimum=1, maximum=60),
        Parameter(name="seed", doc="The same seed gives the same video."),
        Parameter(name="source_image", doc="Image that the video begins with."),
        Parameter(name="strength", doc="How surely it begins with that image."),
        Parameter(name="keyframes", doc="Images that the video shows at given frames."),
        Parameter(name="source_video", doc="MP4 that the video begins with, or of which a part is made again."),
        Parameter(name="retake_range", doc="Part of source_video to make again; all else of it stays."),
        Parameter(name="audio_file", doc="Sound that the video is made for, and has."),
        Parameter(name="pipeline", doc="How the video is made; left out, by what is given and what the model is."),
        Parameter(name="spatial_upscale", doc="How much smaller the first pass is, whose latents are then enlarged."),
        Parameter(name="temporal_upscale", doc="x2: every second frame is made, and those between by an upsampler."),
        Parameter(name="loras", doc="Low-rank LoRAs (LoRA), by name or path, each with its scale."),
        Parameter(name="enable_audio", doc="Whether there is sound."),
        Parameter(name="steps", doc="Denoising steps of models that are not distilled.", minimum=1, maximum=100),
        Parameter(name="guidance", doc="Guidance of models that are not distilled.", minimum=0, maximum=20),
    )

    def sizes_of(self, spec: ModelSpec) -> SizeRules:
        """Return the size rules of one model: a spec may bring its own in ``options.sizes``."""
        return sizes_from_options(spec, self.sizes)

    def resolve_inputs(self, spec: ModelSpec, request: GenerateRequest) -> GenerateRequest:
        """Return the request with what follows from its source video, and the steps of a model that has its own."""
        from mold_ltx2.checks import resolve_inputs

        return resolve_inputs(spec, request)

    def check(self, spec: ModelSpec, request: GenerateRequest) -> None:
        """Raise ValidationError for what LTX-2 cannot honour."""
        from mold_ltx2.checks import check

        check(spec, request)

    def components(self, spec: ModelSpec, files: LocalFiles, context: LoadContext) -> tuple[ModelComponent, ...]:
        """Return what text encoder, connectors, transformer, autoencoders and upsamplers take in memory."""
        from mold_ltx2.component_sizes import model_components

        return model_components(spec, files, context)

    def warm(self) -> None:
        """Import what loading a model needs, but not diffusers, which takes seconds and not every worker needs."""
        import mold_ltx2.loading  # noqa: F401

    def load(self, spec: ModelSpec, files: LocalFiles, context: LoadContext) -> Pipeline:
        """Return the model ready to run. Raises CheckpointError when the files are not an LTX-2 model."""
        from mold_ltx2.loading import load_pipeline

        return load_pipeline(spec, files, context)
