"""Request, response and progress events of a chain: a long video made of several clips."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeAlias

import attrs

from mold_core.wire.fields import wire_field
from mold_core.wire.generate import MAX_PROMPT_BYTES, MAX_SEED, LoraWeight
from mold_core.wire.media_file import html_of
from mold_core.wire.placement import DevicePlacement
from mold_core.wire.request import Request
from mold_core.wire.video import VideoData

__all__ = [
    "MAX_STAGES",
    "ChainDenoiseStep",
    "ChainEvent",
    "ChainRequest",
    "ChainResponse",
    "ChainStage",
    "ChainStageDone",
    "ChainStageStart",
    "ChainStart",
    "Stitching",
    "Transition",
]

Transition = Literal["smooth", "cut", "fade"]

MAX_STAGES = 16


@attrs.frozen(kw_only=True)
class ChainStage:
    """One clip of a chain.

    `transition` is how the clip follows the previous one: `smooth` continues its motion, `cut` starts without it, and
    `fade` starts without it and is cross-faded over `fade_frames` frames.
    """

    prompt: str = wire_field("Prompt of the clip.", max_length=MAX_PROMPT_BYTES)
    frames: int = wire_field("Number of frames: a multiple of the model's frame stride, plus 1.", maximum=100_000)
    source_image: bytes | None = wire_field("PNG or JPEG used as the first frame.", default=None, min_length=1)
    negative_prompt: str | None = wire_field("What the clip must not show.", default=None, max_length=MAX_PROMPT_BYTES)
    seed_offset: int | None = wire_field(
        "Mixed into the chain's seed for this clip.", default=None, minimum=0, maximum=MAX_SEED
    )
    transition: Transition = wire_field("How the clip follows the previous one.", default="smooth")
    fade_frames: int | None = wire_field("Frames of a cross-fade; default: 8.", default=None, minimum=1, maximum=32)


@attrs.frozen(kw_only=True)
class ChainRequest(Request["ChainResponse"]):
    """A long video: either a list of `stages`, or one `prompt` with `total_frames` that mold divides into clips.

    `prompt`, `total_frames`, `clip_frames` and `source_image` are used only if `stages` is empty.
    `mold_core.chains.plan` checks a request and converts both forms into stages.
    """

    model: str | None = wire_field("Model name, with or without its tag.", default=None, not_blank=True, max_length=200)
    stages: tuple[ChainStage, ...] = wire_field("The clips, in order.", default=())
    prompt: str | None = wire_field("Prompt of every clip.", default=None, max_length=MAX_PROMPT_BYTES)
    total_frames: int | None = wire_field("Number of frames of the whole video.", default=None, maximum=100_000)
    clip_frames: int | None = wire_field(
        "Frames of one clip: a multiple of the model's frame stride, plus 1. Default: set by the model's family.",
        default=None,
        maximum=100_000,
    )
    source_image: bytes | None = wire_field("PNG or JPEG used as the first frame.", default=None, min_length=1)
    motion_tail_frames: int = wire_field(
        "Minimum number of frames at the end of a clip that the next clip continues from; 0 for none.",
        default=4,
        minimum=0,
        maximum=100_000,
    )
    width: int | None = wire_field("Width in pixels.", default=None, minimum=1, maximum=16_384)
    height: int | None = wire_field("Height in pixels.", default=None, minimum=1, maximum=16_384)
    fps: int | None = wire_field("Frames per second.", default=None, minimum=1, maximum=120)
    seed: int | None = wire_field(
        "Seed of the whole video; default: random. The response reports it.", default=None, minimum=0, maximum=MAX_SEED
    )
    steps: int | None = wire_field("Denoising steps per clip.", default=None, minimum=1, maximum=100)
    guidance: float | None = wire_field("Guidance scale.", default=None, minimum=0, maximum=100)
    strength: float = wire_field(
        "How closely the first clip follows source_image; 1 is closest.", default=1.0, minimum=0, maximum=1
    )
    output_format: Literal["mp4", "gif", "apng", "webp"] = wire_field("File format of the video.", default="mp4")
    enable_audio: bool | None = wire_field(
        "Generate sound; default: if the model and the format support it.", default=None
    )
    loras: tuple[LoraWeight, ...] | None = wire_field("LoRAs to apply.", default=None, min_length=1)
    embed_metadata: bool | None = wire_field("Write the request into the file's metadata.", default=None)
    options: dict[str, Any] = wire_field(
        "Values of parameters that the model's family declares, by name.", default=attrs.Factory(dict), hash=False
    )
    placement: DevicePlacement | None = wire_field(
        "Devices of the model's components; default: as configured for the model, else chosen by mold.", default=None
    )


@attrs.frozen(kw_only=True)
class ChainResponse:
    """The result of a chain."""

    video: VideoData = wire_field("The complete video.")
    stage_count: int = wire_field("Number of clips.")
    model: str = wire_field("Full name of the model that generated it.")
    seed_used: int = wire_field("Seed of the whole video.")
    generation_time_ms: int = wire_field("Time from the start of the job to the encoded file, in milliseconds.")
    gpu: int | None = wire_field("Ordinal of the GPU that generated it.", default=None)
    warnings: tuple[str, ...] = wire_field("Fields that were adjusted or ignored, one sentence each.", default=())
    script: dict[str, Any] | None = wire_field(
        "The chain as a script, without images: schema, chain and stage.", default=None, hash=False
    )

    def _repr_html_(self) -> str:
        return html_of([self.video])


# --- events ------------------------------------------------------------------------------------------------------
# Three of them share a `type` on the wire with another event that has other fields; `wire_type` sets it.


@attrs.frozen(kw_only=True)
class ChainStart:
    """A chain starts."""

    stage_count: int = wire_field("Number of clips.")
    estimated_total_frames: int = wire_field("Frames of all clips, without overlaps.")


@attrs.frozen(kw_only=True)
class ChainStageStart:
    """A clip starts."""

    wire_type: ClassVar[str] = "stage_start"
    stage_idx: int = wire_field("Index of the clip, from 0.")


@attrs.frozen(kw_only=True)
class ChainDenoiseStep:
    """A denoising step of a clip is done."""

    wire_type: ClassVar[str] = "denoise_step"
    stage_idx: int = wire_field("Index of the clip, from 0.")
    step: int = wire_field("Number of the step, from 1.")
    total: int = wire_field("Number of steps per clip.")


@attrs.frozen(kw_only=True)
class ChainStageDone:
    """A clip is done."""

    wire_type: ClassVar[str] = "stage_done"
    stage_idx: int = wire_field("Index of the clip, from 0.")
    frames_emitted: int = wire_field("Frames that the clip adds to the video.")


@attrs.frozen(kw_only=True)
class Stitching:
    """The clips are being joined into one video."""

    total_frames: int = wire_field("Number of frames of the video.")


ChainEvent: TypeAlias = ChainStart | ChainStageStart | ChainDenoiseStep | ChainStageDone | Stitching
