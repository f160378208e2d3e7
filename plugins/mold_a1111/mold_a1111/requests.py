"""Bodies of the routes. Unknown fields are ignored, as everywhere in mold."""

from __future__ import annotations

from typing import Any

import attrs

from mold_a1111.prompts import split_prompt
from mold_core import GenerateRequest, ModelSpec
from mold_core.wire.fields import wire_field

__all__ = [
    "SAMPLERS",
    "A1111Generation",
    "A1111ImageToImage",
    "A1111Options",
    "A1111PngInfo",
    "A1111TextToImage",
    "A1111Upscale",
    "generate_request",
]

# The web UI's names of samplers → mold's names.
SAMPLERS = {"Euler": None, "Euler a": "euler-ancestral", "DDIM": "ddim", "UniPC": "uni-pc"}

_MAX_IMAGES = 100


@attrs.frozen(kw_only=True)
class A1111Generation:
    """The common fields of txt2img and img2img."""

    prompt: str = wire_field("What the image shows; <lora:name:0.8> applies a LoRA.", default="", max_length=77_000)
    negative_prompt: str | None = wire_field("What the image must not show.", default=None, max_length=77_000)
    width: int | None = wire_field("Width in pixels.", default=None, minimum=1, maximum=16_384)
    height: int | None = wire_field("Height in pixels.", default=None, minimum=1, maximum=16_384)
    steps: int | None = wire_field("Denoising steps.", default=None, minimum=1, maximum=150)
    cfg_scale: float | None = wire_field("Guidance scale.", default=None, minimum=0, maximum=100)
    distilled_cfg_scale: float | None = wire_field(
        "Guidance of distilled models, as Forge has it; goes before cfg_scale.", default=None, minimum=0, maximum=100
    )
    seed: int | None = wire_field("Seed of the first image; -1 means random.", default=None, minimum=-1, maximum=2**63)
    batch_size: int | None = wire_field("Images of a batch.", default=None, minimum=1, maximum=_MAX_IMAGES)
    n_iter: int | None = wire_field("Number of batches.", default=None, minimum=1, maximum=_MAX_IMAGES)
    sampler_name: str | None = wire_field("Sampler, for models that have several.", default=None, max_length=100)
    override_settings: dict[str, Any] | None = wire_field(
        "Options of this request alone; `sd_model_checkpoint` names a model.", default=None, hash=False
    )
    send_images: bool | None = wire_field("Whether the response has the images.", default=None)


@attrs.frozen(kw_only=True)
class A1111TextToImage(A1111Generation):
    """Body of txt2img."""

    enable_hr: bool | None = wire_field("Enlarge the images and denoise them again.", default=None)
    hr_scale: float | None = wire_field("Factor of the enlargement.", default=None, minimum=1, maximum=8)
    hr_resize_x: int | None = wire_field("Width, instead of the factor.", default=None, minimum=0, maximum=16_384)
    hr_resize_y: int | None = wire_field("Height, instead of the factor.", default=None, minimum=0, maximum=16_384)
    hr_upscaler: str | None = wire_field("Upscaler of the enlargement.", default=None, max_length=200)
    hr_second_pass_steps: int | None = wire_field("Steps; 0: as before.", default=None, minimum=0, maximum=150)
    denoising_strength: float | None = wire_field(
        "How much the enlarged image is changed.", default=None, minimum=0, maximum=1
    )


@attrs.frozen(kw_only=True)
class A1111ImageToImage(A1111Generation):
    """Body of img2img."""

    init_images: tuple[bytes, ...] = wire_field("Image to start from.", min_length=1, max_length=1)
    mask: bytes | None = wire_field("White is regenerated, black is kept.", default=None, min_length=1)
    inpainting_mask_invert: int | None = wire_field("1: black is regenerated.", default=None, minimum=0, maximum=1)
    denoising_strength: float | None = wire_field("How much to change the image.", default=None, minimum=0, maximum=1)
    include_init_images: bool | None = wire_field("Repeat the image in the response.", default=None)


@attrs.frozen(kw_only=True)
class A1111Upscale:
    """Body of extra-single-image."""

    image: bytes = wire_field("PNG, JPEG or WebP.", min_length=1)
    upscaler_1: str | None = wire_field("Upscaler; None: the image as it is.", default=None, max_length=200)
    resize_mode: int | None = wire_field("0: by a factor, 1: to a size.", default=None, minimum=0, maximum=1)
    upscaling_resize: float | None = wire_field("Factor.", default=None, minimum=0.1, maximum=8)
    upscaling_resize_w: int | None = wire_field("Width.", default=None, minimum=1, maximum=16_384)
    upscaling_resize_h: int | None = wire_field("Height.", default=None, minimum=1, maximum=16_384)


@attrs.frozen(kw_only=True)
class A1111Options:
    """Options; all but the model are ignored."""

    sd_model_checkpoint: str | None = wire_field("Model of requests that name none.", default=None, max_length=200)


@attrs.frozen(kw_only=True)
class A1111PngInfo:
    """An image whose infotext is requested."""

    image: bytes = wire_field("PNG, JPEG or WebP.", min_length=1)


def generate_request(body: A1111Generation, spec: ModelSpec, abilities: frozenset[str], **more: Any) -> GenerateRequest:
    """Return the request to the engine. Raises ValidationError."""
    prompt, loras = split_prompt(body.prompt)
    guidance = body.cfg_scale if body.distilled_cfg_scale is None else body.distilled_cfg_scale
    return GenerateRequest(
        prompt=prompt,
        model=spec.name,
        negative_prompt=body.negative_prompt or None,
        width=body.width,
        height=body.height,
        steps=body.steps and min(body.steps, 100),
        guidance=guidance,
        seed=None if body.seed in (None, -1) else body.seed,
        batch_size=(body.batch_size or 1) * (body.n_iter or 1),
        loras=loras or None,
        scheduler=SAMPLERS.get(body.sampler_name or "") if "scheduler" in abilities else None,  # type: ignore[arg-type]
        output_format="png",
        preview=True,
        **more,
    )
