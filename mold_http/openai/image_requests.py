"""Requests to OpenAI's image routes, and the requests to the engine that they mean."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Literal

import attrs
import falcon.asgi

from mold_core.catalog import ModelSpec
from mold_core.errors import ValidationError
from mold_core.media.decoder import check_image, transparency_mask
from mold_core.wire import GenerateRequest, LoraWeight
from mold_core.wire.fields import wire_field
from mold_core.wire.generate import MAX_PROMPT_BYTES, MAX_SEED
from mold_http.guard.forms import read_form
from mold_http.openai.forms import from_form

__all__ = [
    "ImageEdit",
    "ImageGeneration",
    "edit_request",
    "generation_request",
    "is_reencoded",
    "read_edit",
    "refuse_unusable",
    "sides",
]

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
_MAX_IMAGES = 16
_IGNORED = "Accepted and ignored."


@attrs.frozen(kw_only=True)
class ImageGeneration:
    """Body of `client.images.generate`. mold adds fields to those of OpenAI (extra_body)."""

    prompt: str = wire_field("Description of the image.", not_blank=True, max_length=MAX_PROMPT_BYTES)
    model: str | None = wire_field(
        "Model. OpenAI's own names, such as gpt-image-1, mean the default model, as does no name.",
        default=None,
        not_blank=True,
        max_length=200,
    )
    n: int | None = wire_field("Number of images.", default=None, minimum=1, maximum=10)
    size: str | None = wire_field("WIDTHxHEIGHT or auto.", default=None, max_length=20)
    response_format: Literal["b64_json", "url"] | None = wire_field(
        "`b64_json` (default), or `url` of the file, which the same key opens.", default=None
    )
    output_format: Literal["png", "jpeg", "webp", "gif"] | None = wire_field("File format; default png.", default=None)
    output_compression: int | None = wire_field(
        "Quality of JPEG and WebP; ignored for other formats.", default=None, minimum=0, maximum=100
    )
    background: Literal["transparent", "opaque", "auto"] | None = wire_field(
        "`transparent` needs a model that generates an alpha channel.", default=None
    )
    stream: bool | None = wire_field("Stream events.", default=None)
    partial_images: int | None = wire_field(
        "Maximum number of previews in a stream.", default=None, minimum=0, maximum=3
    )
    quality: str | None = wire_field("Ignored, and repeated in the response.", default=None, max_length=20)
    moderation: str | None = wire_field(_IGNORED, default=None, max_length=20)
    style: str | None = wire_field(_IGNORED, default=None, max_length=20)
    user: str | None = wire_field(_IGNORED, default=None, max_length=1000)
    steps: int | None = wire_field("Denoising steps.", default=None, minimum=1, maximum=100)
    seed: int | None = wire_field("Seed of the first image.", default=None, minimum=0, maximum=MAX_SEED)
    guidance: float | None = wire_field(
        "Guidance scale: how closely the prompt is followed.", default=None, minimum=0, maximum=100
    )
    negative_prompt: str | None = wire_field(
        "What the image should not show.", default=None, max_length=MAX_PROMPT_BYTES
    )
    loras: tuple[LoraWeight, ...] | None = wire_field("LoRAs to apply.", default=None, min_length=1)
    options: dict[str, Any] = wire_field(
        "Values of parameters that the model's family declares, by name.", default=attrs.Factory(dict), hash=False
    )


@attrs.frozen(kw_only=True)
class ImageEdit(ImageGeneration):
    """Form fields of `client.images.edit`; `image` and `mask` are files, and `image` may occur several times."""

    image: tuple[bytes, ...] = wire_field(
        "Input images (PNG, JPEG, WebP, AVIF, HEIC).", min_length=1, max_length=_MAX_IMAGES
    )
    mask: bytes | None = wire_field(
        "Areas to regenerate: transparent, or white without an alpha channel.", default=None
    )
    strength: float | None = wire_field("How much to change the image.", default=None, minimum=0, maximum=1)


async def read_edit(req: falcon.asgi.Request) -> ImageEdit:
    """Return the edit in a form. Raises the errors of `read_json`."""
    form = await read_form(req, frozenset({"image", "image[]", "mask"}))
    images = [*form.files.get("image", ()), *form.files.get("image[]", ())]
    if not images:
        raise ValidationError("image is required", field="image", hint="send it as a file of the form")
    return from_form(ImageEdit, form, {"image": images, "mask": form.files.get("mask", [None])[0]})


def refuse_unusable(body: ImageGeneration, spec: ModelSpec, capabilities: Collection[str]) -> None:
    """Raise ValidationError for a background or a response format that cannot be honoured."""
    if body.background == "transparent":
        if "transparency" not in capabilities:
            raise ValidationError(
                f"background transparent: {spec.name} generates opaque images",
                field="background",
                value="transparent",
                hint="leave background out, or name a model that generates an alpha channel",
            )
        if body.output_format == "jpeg":
            raise ValidationError(
                "background transparent: a JPEG is opaque", field="background", hint="use png or webp"
            )
    if body.response_format == "url" and is_reencoded(body):
        raise ValidationError(
            "response_format url returns files of the gallery, which has no GIFs and no output_compression of images",
            field="response_format",
            value="url",
            hint="use response_format b64_json, or another output_format",
        )


def is_reencoded(body: ImageGeneration) -> bool:
    """Return whether the file in the response differs from that in the gallery."""
    return body.output_format == "gif" or (
        body.output_compression is not None and body.output_format in ("jpeg", "webp")
    )


def generation_request(body: ImageGeneration, spec: ModelSpec, **more: Any) -> GenerateRequest:
    """Return the request to the engine. Raises ValidationError for a malformed size."""
    width, height = sides(body.size)
    return GenerateRequest(
        prompt=body.prompt,
        model=spec.name,
        batch_size=body.n or 1,
        width=width,
        height=height,
        output_format="png" if is_reencoded(body) else body.output_format or "png",
        steps=body.steps,
        seed=body.seed,
        guidance=body.guidance,
        negative_prompt=body.negative_prompt,
        loras=body.loras,
        options=body.options,
        preview=bool(body.stream and body.partial_images),
        **more,
    )


def edit_request(edit: ImageEdit, spec: ModelSpec, capabilities: Collection[str]) -> GenerateRequest:
    """Return the request to the engine.

    Models that edit by instruction get all images as `edit_images`. Others start from one image. Raises
    ValidationError for several images without such a model.
    """
    if "image-editing" in capabilities and edit.mask is None and edit.strength is None:
        for image in edit.image:
            check_image(image, name="image")
        return generation_request(edit, spec, edit_images=edit.image)
    if len(edit.image) > 1:
        raise ValidationError(
            f"image: {spec.name} takes one image, and the request has {len(edit.image)}",
            field="image",
            hint="name a model that can do image-editing, without mask and strength",
        )
    more: dict[str, Any] = {"source_image": edit.image[0]}
    if edit.strength is not None:
        more["strength"] = edit.strength
    if edit.mask is not None:
        # White areas are regenerated; OpenAI's masks use transparent ones.
        more["mask_image"] = transparency_mask(edit.mask, name="mask") or edit.mask
    return generation_request(edit, spec, **more)


def sides(size: str | None) -> tuple[int | None, int | None]:
    """Return width and height, None for `auto` and no size. Raises ValidationError."""
    if size is None or size == "auto":
        return None, None
    match = _SIZE.fullmatch(size)
    if match is None:
        raise ValidationError("size must be WIDTHxHEIGHT, such as 1024x1024, or auto", field="size", value=size)
    return int(match[1]), int(match[2])
