"""The request for images and videos, and its answer."""

from __future__ import annotations

from typing import Literal

import attrs

from mold_core.wire.fields import wire_field
from mold_core.wire.media_file import ImageFile, html_of
from mold_core.wire.placement import DevicePlacement
from mold_core.wire.video import Keyframe, TimeRange, VideoData, VideoPipeline

__all__ = ["OUTPUT_FORMATS", "GenerateRequest", "GenerateResponse", "ImageData", "LoraWeight"]

OutputFormat = Literal["png", "jpeg", "webp", "gif", "apng", "mp4"]
OUTPUT_FORMATS: tuple[OutputFormat, ...] = ("png", "jpeg", "webp", "gif", "apng", "mp4")

MAX_PROMPT_BYTES = 77_000
MAX_SEED = 2**64 - 1
MAX_FILE_BYTES = 64 * 1024 * 1024


@attrs.frozen(kw_only=True)
class LoraWeight:
    """A low-rank LoRA and how strongly it is applied."""

    path: str = wire_field("File of the LoRA (.safetensors).", not_blank=True)
    scale: float = wire_field("Strength; 0 leaves the model as it is.", default=1.0, minimum=0, maximum=2)


@attrs.frozen(kw_only=True)
class GenerateRequest:
    """What is asked for. Only `prompt` is required; None means the model's own default.

    The engine never changes a request: it completes it into a new one (resolved model name, defaults, seed, sizes that
    the family can make), and that completed request is what the metadata of the result records.
    """

    prompt: str = wire_field("What the image shows.", not_blank=True, max_length=MAX_PROMPT_BYTES)
    model: str | None = wire_field("Model name, with or without its tag.", default=None, not_blank=True, max_length=200)
    negative_prompt: str | None = wire_field("What the image must not show.", default=None, max_length=MAX_PROMPT_BYTES)
    width: int | None = wire_field("Width in pixels.", default=None, minimum=1, maximum=16_384)
    height: int | None = wire_field("Height in pixels.", default=None, minimum=1, maximum=16_384)
    steps: int | None = wire_field("Denoising steps.", default=None, minimum=1, maximum=100)
    guidance: float | None = wire_field("How strictly the prompt is followed.", default=None, minimum=0, maximum=100)
    seed: int | None = wire_field(
        "Seed of the noise; random when absent, always reported.", default=None, minimum=0, maximum=MAX_SEED
    )
    batch_size: int = wire_field("Images to make; their seeds count up from seed.", default=1, minimum=1, maximum=1000)
    output_format: OutputFormat | None = wire_field(
        "File format of the result; default: png for images, mp4 for videos.", default=None
    )
    embed_metadata: bool | None = wire_field("Write the request into the file.", default=None)
    scheduler: Literal["ddim", "euler-ancestral", "uni-pc"] | None = wire_field("Sampler of SD models.", default=None)
    source_image: bytes | None = wire_field("PNG or JPEG to start from.", default=None, min_length=1)
    strength: float = wire_field("How far to move away from source_image.", default=0.75, minimum=0, maximum=1)
    mask_image: bytes | None = wire_field("White is repainted, black is kept.", default=None, min_length=1)
    lora: LoraWeight | None = wire_field("One adapter.", default=None)
    loras: tuple[LoraWeight, ...] | None = wire_field("Several adapters.", default=None, min_length=1)
    frames: int | None = wire_field("Frames of a video.", default=None, minimum=1, maximum=257)
    fps: int | None = wire_field("Frames per second of a video.", default=None, minimum=1, maximum=120)
    enable_audio: bool | None = wire_field("Whether a video has sound; default: where mp4 has any.", default=None)
    gif_preview: bool = wire_field("Add a small GIF to a video.", default=False)
    keyframes: tuple[Keyframe, ...] | None = wire_field(
        "Images that a video shows at given frames.", default=None, min_length=1
    )
    audio_file: bytes | None = wire_field(
        "Sound that a video is made for.", default=None, min_length=1, max_length=MAX_FILE_BYTES
    )
    source_video: bytes | None = wire_field(
        "MP4 that a video begins with, or of which retake_range is made again.",
        default=None,
        min_length=1,
        max_length=MAX_FILE_BYTES,
    )
    retake_range: TimeRange | None = wire_field("Stretch of source_video to make again.", default=None)
    pipeline: VideoPipeline | None = wire_field("How a video is made; default: by what is given.", default=None)
    spatial_upscale: Literal["x1-5", "x2"] | None = wire_field(
        "How much smaller a video is made first, and then enlarged to its width and height.", default=None
    )
    temporal_upscale: Literal["x2"] | None = wire_field(
        "Make every second frame of a video, and then those between.", default=None
    )
    expand: bool | None = wire_field("Let a language model write the prompt out first.", default=None)
    original_prompt: str | None = wire_field(
        "The prompt before it was expanded; kept in the metadata.", default=None, max_length=MAX_PROMPT_BYTES
    )
    preview: bool = wire_field("Send small previews of the image while it is made.", default=False)
    upscale_model: str | None = wire_field(
        "Upscaler to run on the result.", default=None, not_blank=True, max_length=200
    )
    placement: DevicePlacement | None = wire_field(
        "Devices of the model's parts; default: what was set for the model, or mold's choice.", default=None
    )


@attrs.frozen(kw_only=True)
class ImageData(ImageFile):
    """One finished image: the whole file in `data`. `to_pil` and `to_numpy` open it, and notebooks show it."""

    data: bytes = wire_field("The encoded file.")
    format: OutputFormat = wire_field("Its format.")
    width: int = wire_field("Width in pixels.")
    height: int = wire_field("Height in pixels.")
    index: int = wire_field("Place in the batch, from 0.", default=0)
    name: str | None = wire_field("Name in the gallery, where it was saved there.", default=None)

    def __repr__(self) -> str:
        return f"<{self.format} image, {self.width}x{self.height}, {len(self.data):,} bytes>"


@attrs.frozen(kw_only=True)
class GenerateResponse:
    """What came of a request: images, or one video."""

    images: tuple[ImageData, ...] = wire_field("The images, in the order of their seeds.")
    generation_time_ms: int = wire_field("From the start of the work to the last byte, in milliseconds.")
    model: str = wire_field("Full name of the model that made them.")
    seed_used: int = wire_field("Seed of the first image.")
    video: VideoData | None = wire_field("The video, where one was asked for.", default=None)
    expanded: tuple[str, ...] = wire_field("The prompts that were written, one for each image.", default=())
    warnings: tuple[str, ...] = wire_field("What was adjusted or ignored, in words.", default=())

    def _repr_html_(self) -> str:
        return html_of(self.images if self.video is None else (self.video,))
