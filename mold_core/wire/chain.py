"""The request for a long video made of clips, the events on its way, and its answer."""

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

    `transition` says how it follows the stage before: `smooth` continues its motion, `cut` starts afresh, `fade` starts
    afresh and is blended in over `fade_frames`.
    """

    prompt: str = wire_field("What the clip shows.", max_length=MAX_PROMPT_BYTES)
    frames: int = wire_field("Number of frames: a multiple of the model's frame stride, and one.", maximum=100_000)
    source_image: bytes | None = wire_field("PNG or JPEG the clip starts from.", default=None, min_length=1)
    negative_prompt: str | None = wire_field("What the clip must not show.", default=None, max_length=MAX_PROMPT_BYTES)
    seed_offset: int | None = wire_field(
        "Mixed into the chain's seed for this clip.", default=None, minimum=0, maximum=MAX_SEED
    )
    transition: Transition = wire_field("How it follows the clip before.", default="smooth")
    fade_frames: int | None = wire_field("Frames of a fade; default 8.", default=None, minimum=1, maximum=32)


@attrs.frozen(kw_only=True)
class ChainRequest(Request["ChainResponse"]):
    """A long video: either `stages`, or one `prompt` with `total_frames` that is divided into clips.

    `prompt`, `total_frames`, `clip_frames` and `source_image` are read only where `stages` is empty.
    `mold_core.chains.plan` checks a request and turns both forms into stages.
    """

    model: str | None = wire_field("Model name, with or without its tag.", default=None, not_blank=True, max_length=200)
    stages: tuple[ChainStage, ...] = wire_field("The clips, in order.", default=())
    prompt: str | None = wire_field("What every clip shows.", default=None, max_length=MAX_PROMPT_BYTES)
    total_frames: int | None = wire_field("Frames of the whole video.", default=None, maximum=100_000)
    clip_frames: int | None = wire_field(
        "Frames of one clip: a multiple of the model's frame stride, and one. Default: by the model's family.",
        default=None,
        maximum=100_000,
    )
    source_image: bytes | None = wire_field("PNG or JPEG the video starts from.", default=None, min_length=1)
    motion_tail_frames: int = wire_field(
        "Frames, at least, of each clip that the next one continues from; 0 joins clips without.",
        default=4,
        minimum=0,
        maximum=100_000,
    )
    width: int | None = wire_field("Width in pixels.", default=None, minimum=1, maximum=16_384)
    height: int | None = wire_field("Height in pixels.", default=None, minimum=1, maximum=16_384)
    fps: int | None = wire_field("Frames per second.", default=None, minimum=1, maximum=120)
    seed: int | None = wire_field(
        "Seed of the whole video; random when absent, always reported.", default=None, minimum=0, maximum=MAX_SEED
    )
    steps: int | None = wire_field("Denoising steps of a clip.", default=None, minimum=1, maximum=100)
    guidance: float | None = wire_field("How strictly prompts are followed.", default=None, minimum=0, maximum=100)
    strength: float = wire_field("How far the first clip keeps to its source_image.", default=1.0, minimum=0, maximum=1)
    output_format: Literal["mp4", "gif", "apng", "webp"] = wire_field("File format of the video.", default="mp4")
    enable_audio: bool | None = wire_field("Whether there is sound; default: where the format has any.", default=None)
    loras: tuple[LoraWeight, ...] | None = wire_field("LoRAs.", default=None, min_length=1)
    embed_metadata: bool | None = wire_field("Write the request into the file.", default=None)
    options: dict[str, Any] = wire_field(
        "Values of the parameters that the model's family has of its own, by name.",
        default=attrs.Factory(dict),
        hash=False,
    )
    placement: DevicePlacement | None = wire_field(
        "Devices of the model's parts; default: what was set for the model, or mold's choice.", default=None
    )


@attrs.frozen(kw_only=True)
class ChainResponse:
    """What came of a chain."""

    video: VideoData = wire_field("The whole video.")
    stage_count: int = wire_field("Number of clips.")
    model: str = wire_field("Full name of the model that made it.")
    seed_used: int = wire_field("Seed of the whole video.")
    generation_time_ms: int = wire_field("From the start of the work to the last byte, in milliseconds.")
    gpu: int | None = wire_field("Number of the GPU that made it.", default=None)
    warnings: tuple[str, ...] = wire_field("What was adjusted or ignored, in words.", default=())
    script: dict[str, Any] | None = wire_field(
        "The chain as a script, without images: schema, chain and stage.", default=None, hash=False
    )

    def _repr_html_(self) -> str:
        return html_of([self.video])


# --- events ------------------------------------------------------------------------------------------------------
# Three of them carry the names of other events on the wire, with other fields: `wire_type` says so.


@attrs.frozen(kw_only=True)
class ChainStart:
    """The work on a chain begins."""

    stage_count: int = wire_field("Number of clips.")
    estimated_total_frames: int = wire_field("Frames of all clips, less what overlaps.")


@attrs.frozen(kw_only=True)
class ChainStageStart:
    """A clip begins."""

    wire_type: ClassVar[str] = "stage_start"
    stage_idx: int = wire_field("Number of the clip, from 0.")


@attrs.frozen(kw_only=True)
class ChainDenoiseStep:
    """One denoising step of a clip is done."""

    wire_type: ClassVar[str] = "denoise_step"
    stage_idx: int = wire_field("Number of the clip, from 0.")
    step: int = wire_field("Number of the step, from 1.")
    total: int = wire_field("Steps of the clip.")


@attrs.frozen(kw_only=True)
class ChainStageDone:
    """A clip is done."""

    wire_type: ClassVar[str] = "stage_done"
    stage_idx: int = wire_field("Number of the clip, from 0.")
    frames_emitted: int = wire_field("Frames it adds to the video.")


@attrs.frozen(kw_only=True)
class Stitching:
    """The clips become one video."""

    total_frames: int = wire_field("Frames the video will have.")


ChainEvent: TypeAlias = ChainStart | ChainStageStart | ChainDenoiseStep | ChainStageDone | Stitching
