"""The family `flux`: its capabilities, parameters and models. Imports torch only to load a model."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from mold_core import ModelFamily, Parameter, SizeRules
from mold_core.families import required, sizes_from_options
from mold_flux.schedule import first_step
from mold_flux.step_cache import DEFAULT_THRESHOLD, first_block_cache

if TYPE_CHECKING:
    from mold_core import GenerateRequest, LoadContext, LocalFiles, ModelComponent, ModelSpec, Pipeline

__all__ = ["FluxFamily"]


# Pixels whose tokens, one for 16x16 of them, fill every matrix product of a large GPU: 4096 image tokens.
_BUSY_GPU_PX = 1024 * 1024


class FluxFamily(ModelFamily):
    """FLUX.1 by Black Forest Labs: text to image, image to image, inpainting, LoRAs."""

    name = "flux"
    title = "FLUX.1"
    capabilities = frozenset({"text-to-image", "image-to-image", "inpaint", "lora"})
    sizes = SizeRules(
        multiple=16,
        max_pixels=1_800_000,
        min_side=64,
        recommended=((1024, 1024), (1024, 768), (768, 1024), (1024, 576), (576, 1024), (768, 768)),
    )
    placement_components = ("text_encoders", "t5", "clip_l", "transformer", "vae")
    parameters = (
        Parameter(name="prompt", doc="What the image shows."),
        Parameter(name="width", doc="Width in pixels, a multiple of 16."),
        Parameter(name="height", doc="Height in pixels, a multiple of 16."),
        Parameter(name="steps", doc="Denoising steps: 4 for schnell, 20 to 50 for dev.", minimum=1, maximum=100),
        Parameter(name="guidance", doc="Distilled guidance of dev models; schnell has none.", minimum=0, maximum=20),
        Parameter(name="seed", doc="The same seed gives the same image."),
        Parameter(name="source_image", doc="Image to start from. Without width and height, its aspect ratio is kept."),
        Parameter(name="strength", doc="How much to change source_image: 0 keeps it, 1 ignores all but its size."),
        Parameter(name="mask_image", doc="White regions of source_image are repainted, black ones are kept."),
        Parameter(name="loras", doc="LoRAs, by name or path, each with its scale."),
        Parameter(
            name="cache",
            type=str,
            choices=("off", "first-block"),
            group="advanced",
            doc="first-block: leave out steps in which the first block changes little. Faster, and less exact.",
        ),
        Parameter(
            name="cache_threshold",
            type=float,
            minimum=0,
            maximum=1,
            group="advanced",
            doc=f"Relative change of the first block up to which a step is left out; {DEFAULT_THRESHOLD} if not set.",
        ),
        Parameter(name="preview", doc="Send small previews during generation."),
    )

    def sizes_of(self, spec: ModelSpec) -> SizeRules:
        """Return the size rules of a model: those in ``options.sizes``, else those of the family."""
        return sizes_from_options(spec, self.sizes)

    def batch_key(self, spec: ModelSpec, request: GenerateRequest) -> Hashable:
        """Return the properties that requests of one batch must share."""
        if first_block_cache(request) is not None:
            return None  # steps are left out by what one image needs
        return request.width, request.height, request.steps, first_step(request), request.loras

    def batch_limit(self, spec: ModelSpec, request: GenerateRequest, device: str) -> int | None:
        """Return how many images keep a GPU busy: one of 1024x1024, sixteen of 256x256. CPUs gain from any batch."""
        if not device.startswith("cuda"):
            return None
        return max(1, _BUSY_GPU_PX // (required(request.width) * required(request.height)))

    def components(self, spec: ModelSpec, files: LocalFiles, context: LoadContext) -> tuple[ModelComponent, ...]:
        """Return the sizes of the text encoders, the transformer and the autoencoder in memory."""
        from mold_flux.components import model_components

        return model_components(spec, files, context)

    def warm(self) -> None:
        """Import what loading a model needs."""
        import mold_flux.loading  # noqa: F401

    def load(self, spec: ModelSpec, files: LocalFiles, context: LoadContext) -> Pipeline:
        """Return the pipeline of a model. Raises CheckpointError if the files are not a FLUX.1 model."""
        from mold_flux.loading import load_pipeline

        return load_pipeline(spec, files, context)
