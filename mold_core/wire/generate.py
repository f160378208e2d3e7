"""Request and response of generation: images or one video from a prompt."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from mold_core.wire.fields import wire_field
from mold_core.wire.media_file import ImageFile, html_of
from mold_core.wire.placement import DevicePlacement
from mold_core.wire.request import Request
from mold_core.wire.video import Keyframe, TimeRange, VideoData, VideoPipeline

__all__ = ["OUTPUT_FORMATS", "GenerateRequest", "GenerateResponse", "ImageData", "LoraWeight"]

OutputFormat = Literal["png", "jpeg", "webp", "gif", "apng", "mp4"]
OUTPUT_FORMATS: tuple[OutputFormat, ...] = ("png", "jpeg", "webp", "gif", "apng", "mp4")

MAX_PROMPT_BYTES = 77_000
MAX_SEED = 2**64 - 1
MAX_FILE_BYTES = 64 * 1024 * 1024


@attrs.frozen(kw_only=True)
class LoraWeight:
    """A LoRA and its scale."""

    path: str = wire_field("Name or .safetensors file of the LoRA.", not_blank=True)
    scale: float = wire_field("Scale of the LoRA; 0 disables it.", default=1.0, minimum=0, maximum=2)


@attrs.frozen(kw_only=True)
class GenerateRequest(Request["GenerateResponse"]):
    """A request for images or a video. Only `prompt` is required; None means the default of the model.

    The engine never changes a request. It creates a completed copy (full model name, defaults, seed, sizes that the
    family supports), and the metadata of the result records that copy.
    """

    prompt: str = wire_field(
        "Prompt: what the image shows.", recorded=True, placed=True, not_blank=True, max_length=MAX_PROMPT_BYTES
    )
    model: str | None = wire_field(
        "Model name, with or without its tag.",
        default=None,
        recorded=True,
        placed=True,
        not_blank=True,
        max_length=200,
    )
    negative_prompt: str | None = wire_field(
        "What the image must not show.",
        default=None,
        needs="negative-prompt",
        optional=True,
        recorded=True,
        of_model=True,
        clip_only=True,
        title="Negative prompt",
        max_length=MAX_PROMPT_BYTES,
    )
    width: int | None = wire_field(
        "Width in pixels.", default=None, recorded=True, of_model=True, placed=True, minimum=1, maximum=16_384
    )
    height: int | None = wire_field(
        "Height in pixels.", default=None, recorded=True, of_model=True, placed=True, minimum=1, maximum=16_384
    )
    steps: int | None = wire_field(
        "Denoising steps.", default=None, recorded=True, of_model=True, title="Steps", minimum=1, maximum=100
    )
    guidance: float | None = wire_field(
        "Guidance scale: how closely the image follows the prompt.",
        default=None,
        recorded=True,
        of_model=True,
        title="Guidance",
        minimum=0,
        maximum=100,
    )
    seed: int | None = wire_field(
        "Seed of the initial noise; default: random. The response reports it.",
        default=None,
        recorded=True,
        placed=True,
        minimum=0,
        maximum=MAX_SEED,
    )
    batch_size: int = wire_field(
        "Number of images; each one adds 1 to the seed.", default=1, placed=True, minimum=1, maximum=1000
    )
    output_format: OutputFormat | None = wire_field(
        "File format of the result; default: png for images, mp4 for videos.", default=None, placed=True
    )
    embed_metadata: bool | None = wire_field("Write the request into the file's metadata.", default=None, placed=True)
    scheduler: Literal["ddim", "euler-ancestral", "uni-pc"] | None = wire_field(
        "Sampler of SD models.", default=None, needs="scheduler", recorded=True, of_model=True, title="Sampler"
    )
    source_image: bytes | None = wire_field(
        "PNG or JPEG to start from.",
        default=None,
        needs=("image-to-image", "image-to-video"),
        placed=True,
        min_length=1,
    )
    strength: float = wire_field(
        "Images: how much source_image is changed (0 keeps it, 1 ignores it). Videos: how closely the first frame "
        "follows it (1 is exactly).",
        default=0.75,
        recorded=True,
        title="Strength",
        minimum=0,
        maximum=1,
    )
    mask_image: bytes | None = wire_field(
        "Mask of source_image: white areas are regenerated, black areas are kept.",
        default=None,
        needs="inpaint",
        placed=True,
        min_length=1,
    )
    control_image: bytes | None = wire_field(
        "PNG or JPEG that controls the composition.", default=None, needs="control", clip_only=True, min_length=1
    )
    control_model: str | None = wire_field(
        "Control model that processes control_image.", default=None, needs="control", clip_only=True, max_length=1000
    )
    edit_images: tuple[bytes, ...] | None = wire_field(
        "Images to edit or combine.", default=None, needs="image-editing", clip_only=True
    )
    lora: LoraWeight | None = wire_field("One LoRA.", default=None, needs="lora", of_model=True, title="LoRA")
    loras: tuple[LoraWeight, ...] | None = wire_field(
        "Several LoRAs.", default=None, needs="lora", of_model=True, title="LoRA", min_length=1
    )
    frames: int | None = wire_field(
        "Number of frames of a video.",
        default=None,
        needs="text-to-video",
        recorded=True,
        of_model=True,
        title="Frames",
        minimum=1,
        maximum=257,
    )
    fps: int | None = wire_field(
        "Frames per second of a video.",
        default=None,
        needs="text-to-video",
        recorded=True,
        of_model=True,
        title="Frames per second",
        minimum=1,
        maximum=120,
    )
    enable_audio: bool | None = wire_field(
        "Generate sound for a video; default: if the model and the format support it.",
        default=None,
        needs="text-to-video",
        title="Sound",
    )
    gif_preview: bool = wire_field("Return a small animated GIF with a video.", default=False)
    keyframes: tuple[Keyframe, ...] | None = wire_field(
        "Images that a video shows at specified frames.",
        default=None,
        needs="text-to-video",
        clip_only=True,
        title="Keyframes",
        min_length=1,
    )
    audio_file: bytes | None = wire_field(
        "Audio to generate a video for.",
        default=None,
        needs="text-to-video",
        clip_only=True,
        title="Audio",
        min_length=1,
        max_length=MAX_FILE_BYTES,
    )
    source_video: bytes | None = wire_field(
        "MP4 to continue from, or to regenerate within retake_range.",
        default=None,
        needs="text-to-video",
        clip_only=True,
        title="Source video",
        min_length=1,
        max_length=MAX_FILE_BYTES,
    )
    retake_range: TimeRange | None = wire_field(
        "Part of source_video to regenerate.", default=None, needs="text-to-video", clip_only=True, title="Retake"
    )
    pipeline: VideoPipeline | None = wire_field(
        "Pipeline that generates a video; default: chosen by the other fields.",
        default=None,
        needs="text-to-video",
        clip_only=True,
        title="Pipeline",
    )
    spatial_upscale: Literal["x1-5", "x2"] | None = wire_field(
        "Generate a video at 1/x of the size, then upsample the latents.",
        default=None,
        needs="text-to-video",
        clip_only=True,
        title="Spatial upscale",
    )
    temporal_upscale: Literal["x2"] | None = wire_field(
        "Generate every second frame of a video, then upsample the latents in time.",
        default=None,
        needs="text-to-video",
        clip_only=True,
        title="Temporal upscale",
    )
    expand: bool | None = wire_field("Expand the prompt with a language model first.", default=None, placed=True)
    original_prompt: str | None = wire_field(
        "The prompt before it was expanded; kept in the metadata.",
        default=None,
        recorded=True,
        placed=True,
        max_length=MAX_PROMPT_BYTES,
    )
    preview: bool = wire_field("Send small previews of the image during generation.", default=False, placed=True)
    upscale_model: str | None = wire_field(
        "Upscaler to run on the result.", default=None, of_model=True, not_blank=True, max_length=200
    )
    placement: DevicePlacement | None = wire_field(
        "Devices of the model's components; default: as configured for the model, else chosen by mold.", default=None
    )
    options: dict[str, Any] = wire_field(
        "Values of parameters that the model's family declares, by name.",
        default=attrs.Factory(dict),
        recorded=True,
        of_model=True,
        hash=False,
    )


@attrs.frozen(kw_only=True)
class ImageData(ImageFile):
    """A generated image: an encoded file in `data`. `to_pil` and `to_numpy` decode it, and notebooks display it."""

    data: bytes = wire_field("The encoded file.")
    format: OutputFormat = wire_field("File format.")
    width: int = wire_field("Width in pixels.")
    height: int = wire_field("Height in pixels.")
    index: int = wire_field("Index in the batch, from 0.", default=0)
    name: str | None = wire_field("Name in the gallery, if it was saved there.", default=None)

    def __repr__(self) -> str:
        return f"<{self.format} image, {self.width}x{self.height}, {len(self.data):,} bytes>"


@attrs.frozen(kw_only=True)
class GenerateResponse:
    """The result of a generation request: images, or one video."""

    images: tuple[ImageData, ...] = wire_field("The images, in the order of their seeds.")
    generation_time_ms: int = wire_field("Time from the start of the job to the encoded files, in milliseconds.")
    model: str = wire_field("Full name of the model that generated them.")
    seed_used: int = wire_field("Seed of the first image.")
    video: VideoData | None = wire_field("The video, if the request is for a video.", default=None)
    expanded: tuple[str, ...] = wire_field("The expanded prompts, one per image.", default=())
    warnings: tuple[str, ...] = wire_field("Fields that were adjusted or ignored, one sentence each.", default=())

    def _repr_html_(self) -> str:
        return html_of(self.images if self.video is None else (self.video,))
