"""Arguments of the tools. Their schemas and checks follow from these classes."""

from __future__ import annotations

import attrs

from mold_core.wire.fields import wire_field
from mold_core.wire.generate import MAX_PROMPT_BYTES, MAX_SEED

__all__ = [
    "EditImage",
    "ExpandPrompt",
    "GenerateImage",
    "GenerateVideo",
    "JobId",
    "ListModels",
    "SearchGallery",
    "UpscaleImage",
]

_IMAGE = "Name of a result in the gallery, a data: URL or base64 text of a PNG or JPEG."


@attrs.frozen(kw_only=True)
class GenerateImage:
    """Generate images from a prompt."""

    prompt: str = wire_field("What the image shows.", not_blank=True, max_length=MAX_PROMPT_BYTES)
    model: str | None = wire_field("Model; default: the default model.", default=None, not_blank=True, max_length=200)
    negative_prompt: str | None = wire_field("What the image must not show.", default=None, max_length=MAX_PROMPT_BYTES)
    width: int | None = wire_field("Width in pixels.", default=None, minimum=1, maximum=16_384)
    height: int | None = wire_field("Height in pixels.", default=None, minimum=1, maximum=16_384)
    count: int = wire_field("Number of images.", default=1, minimum=1, maximum=10)
    steps: int | None = wire_field("Denoising steps.", default=None, minimum=1, maximum=100)
    guidance: float | None = wire_field("Guidance scale.", default=None, minimum=0, maximum=100)
    seed: int | None = wire_field("Seed of the first image.", default=None, minimum=0, maximum=MAX_SEED)


@attrs.frozen(kw_only=True)
class EditImage:
    """Generate a new image from an image and a prompt."""

    image: str = wire_field(_IMAGE, not_blank=True)
    prompt: str = wire_field("What the new image shows.", not_blank=True, max_length=MAX_PROMPT_BYTES)
    model: str | None = wire_field("Model; default: the default model.", default=None, not_blank=True, max_length=200)
    mask: str | None = wire_field("Like image; white is regenerated, black is kept.", default=None, not_blank=True)
    strength: float | None = wire_field("How much to change the image.", default=None, minimum=0, maximum=1)
    steps: int | None = wire_field("Denoising steps.", default=None, minimum=1, maximum=100)
    seed: int | None = wire_field("Seed.", default=None, minimum=0, maximum=MAX_SEED)


@attrs.frozen(kw_only=True)
class UpscaleImage:
    """Upscale an image with a super-resolution model."""

    image: str = wire_field(_IMAGE, not_blank=True)
    model: str | None = wire_field("Upscaler; default: an installed one.", default=None, not_blank=True, max_length=200)


@attrs.frozen(kw_only=True)
class GenerateVideo:
    """Generate a video from a prompt. It takes minutes: job_status reports the progress."""

    prompt: str = wire_field("What the video shows.", not_blank=True, max_length=MAX_PROMPT_BYTES)
    model: str | None = wire_field(
        "Video model; default: an installed one.", default=None, not_blank=True, max_length=200
    )
    seconds: float | None = wire_field("Length; default: that of the model.", default=None, minimum=0.01, maximum=600)
    fps: int | None = wire_field("Frames per second.", default=None, minimum=1, maximum=120)
    width: int | None = wire_field("Width in pixels.", default=None, minimum=1, maximum=16_384)
    height: int | None = wire_field("Height in pixels.", default=None, minimum=1, maximum=16_384)
    image: str | None = wire_field(f"Image to start from. {_IMAGE}", default=None, not_blank=True)
    seed: int | None = wire_field("Seed.", default=None, minimum=0, maximum=MAX_SEED)


@attrs.frozen(kw_only=True)
class ExpandPrompt:
    """Expand a short prompt into detailed ones with a language model."""

    prompt: str = wire_field("Short prompt.", not_blank=True, max_length=MAX_PROMPT_BYTES)
    model: str | None = wire_field("Image model the prompts are for.", default=None, not_blank=True, max_length=200)
    variations: int = wire_field("Number of prompts.", default=1, minimum=1, maximum=10)


@attrs.frozen(kw_only=True)
class ListModels:
    """List the installed models and what they can do."""


@attrs.frozen(kw_only=True)
class JobId:
    """A job."""

    job_id: str = wire_field("Id of the job, which results and progress messages have.", not_blank=True, max_length=200)


@attrs.frozen(kw_only=True)
class SearchGallery:
    """Find earlier results by the words of their prompts, newest first."""

    query: str | None = wire_field("Words of the prompt; default: all results.", default=None, max_length=1000)
    limit: int = wire_field("Number of results.", default=10, minimum=1, maximum=50)
