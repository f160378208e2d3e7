"""The image routes of OpenAI's API, as its official Python client calls them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from typing import Any, Literal

import attrs
import falcon.asgi
import falcon.media

from mold_core.engine import Job
from mold_core.errors import MalformedError, MoldError, ValidationError
from mold_core.jobs.kinds import JobKind
from mold_core.media.decoder import transparency_mask
from mold_core.wire import GenerateRequest, GenerateResponse, ImageData, LoraWeight, Preview, ProgressEvent
from mold_core.wire.convert import from_json
from mold_core.wire.fields import wire_field
from mold_core.wire.generate import MAX_PROMPT_BYTES, MAX_SEED
from mold_http.guard.bodies import read_json
from mold_http.guard.forms import read_form
from mold_http.guard.json_text import parse_json
from mold_http.guard.proxies import site_of
from mold_http.jobs import JobSource, result_of, submit
from mold_http.responses import JSON, answer_json, json_of
from mold_http.routes.route import EVENT_STREAM, ResponseSpec, Route
from mold_http.service import Service
from mold_http.sse import frame, send_events

__all__ = [
    "ROUTES",
    "ImageAnswer",
    "ImageEdit",
    "ImageGeneration",
    "ImagesAnswer",
    "ModelList",
    "openai_error",
    "openai_headers",
]

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


@attrs.frozen(kw_only=True)
class ImageGeneration:
    """Body of `client.images.generate`. mold adds fields to those of OpenAI (extra_body)."""

    prompt: str = wire_field("Description of the image.", not_blank=True, max_length=MAX_PROMPT_BYTES)
    model: str | None = wire_field("Model; default: the default model.", default=None, not_blank=True, max_length=200)
    n: int | None = wire_field("Number of images.", default=None, minimum=1, maximum=10)
    size: str | None = wire_field("WIDTHxHEIGHT or auto.", default=None, max_length=20)
    response_format: Literal["b64_json", "url"] | None = wire_field(
        "`b64_json` (default), or `url` of the gallery.", default=None
    )
    output_format: Literal["png", "jpeg", "webp"] | None = wire_field("File format; default png.", default=None)
    stream: bool | None = wire_field("Stream events.", default=None)
    partial_images: int | None = wire_field(
        "Maximum number of previews in a stream.", default=None, minimum=0, maximum=3
    )
    steps: int | None = wire_field("Denoising steps.", default=None, minimum=1, maximum=100)
    seed: int | None = wire_field("Seed of the first image.", default=None, minimum=0, maximum=MAX_SEED)
    guidance: float | None = wire_field(
        "Guidance scale: how closely the prompt is followed.", default=None, minimum=0, maximum=100
    )
    negative_prompt: str | None = wire_field(
        "What the image should not show.", default=None, max_length=MAX_PROMPT_BYTES
    )
    loras: tuple[LoraWeight, ...] | None = wire_field("LoRAs to apply.", default=None, min_length=1)


@attrs.frozen(kw_only=True)
class ImageEdit(ImageGeneration):
    """Form fields of `client.images.edit`; `image` and `mask` are files."""

    image: bytes = wire_field("Input image, PNG or JPEG.", min_length=1)
    mask: bytes | None = wire_field(
        "Areas to regenerate: transparent, or white without an alpha channel.", default=None
    )
    strength: float | None = wire_field("How much to change the image.", default=None, minimum=0, maximum=1)


@attrs.frozen(kw_only=True)
class ImageAnswer:
    """One image."""

    b64_json: str | None = wire_field("The file in base64.", default=None)
    url: str | None = wire_field("URL of the file.", default=None)


@attrs.frozen(kw_only=True)
class ImagesAnswer:
    """The images."""

    created: int = wire_field("Creation time, in seconds since 1970.")
    data: tuple[ImageAnswer, ...] = wire_field("The images.")
    output_format: str = wire_field("File format.")
    size: str = wire_field("WIDTHxHEIGHT.")
    seed_used: int = wire_field("Seed of the first image.")


@attrs.frozen(kw_only=True)
class ModelEntry:
    """A model, as OpenAI's API lists it."""

    id: str = wire_field("Its name.")
    object: Literal["model"] = wire_field("Object type.")
    created: int = wire_field("Always 0.")
    owned_by: str = wire_field("The family of the model.")


@attrs.frozen(kw_only=True)
class ModelList:
    """The installed models."""

    object: Literal["list"] = wire_field("Object type.")
    data: tuple[ModelEntry, ...] = wire_field("The models.")


async def list_models(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the installed models that can run."""
    entries = await asyncio.to_thread(service.engine.models)
    usable = [entry.spec for entry in entries if entry.downloaded and entry.runnable]
    data = (ModelEntry(id=spec.name, object="model", created=0, owned_by=spec.family) for spec in usable)
    answer_json(resp, ModelList(object="list", data=tuple(data)))


async def generations(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with images generated from a prompt."""
    body = await read_json(req, ImageGeneration)
    await _respond(service, req, resp, body, _request_of(body), "image_generation")


async def edits(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with images generated from an input image."""
    edit = await _read_form(req)
    request = await service.media.run(req, _edit_request_of, edit)
    await _respond(service, req, resp, edit, request, "image_edit")


async def _respond(
    service: Service,
    req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    body: ImageGeneration,
    request: GenerateRequest,
    event: str,
) -> None:
    wants_url = body.response_format == "url"
    if wants_url and service.gallery is None:
        raise ValidationError(
            "response_format url needs the gallery, and MOLD_OUTPUT_DIR is empty", field="response_format"
        )
    job = await submit(service, req, request, durable=False)
    if body.stream:
        send_events(req, resp, service.feeds, _Stream(service, job, event, body.partial_images or 0), patient=True)
        return
    result: GenerateResponse = await result_of(req, job)
    data = tuple(_image(image, site_of(req).url if wants_url else None) for image in result.images)
    first = result.images[0]
    answer_json(
        resp,
        ImagesAnswer(
            created=int(time.time()),
            data=data,
            output_format=first.format,
            size=f"{first.width}x{first.height}",
            seed_used=result.seed_used,
        ),
    )


def _image(image: ImageData, base: str | None) -> ImageAnswer:
    if base is None:
        return ImageAnswer(b64_json=json_of(image.data))
    return ImageAnswer(url=f"{base}/api/gallery/image/{image.name}")


class _Stream(JobSource):
    """The events of OpenAI's streams: previews, then each image when all are done."""

    def __init__(self, service: Service, job: Job, event: str, partial_images: int) -> None:
        super().__init__(service, job, self._completed)
        self._event = event
        self._places = _places(partial_images, job.request.steps)

    def frame_of(self, event: ProgressEvent) -> bytes:
        """Return a preview at the chosen steps, and nothing for events that OpenAI's API does not have."""
        if not isinstance(event, Preview) or event.index or event.step not in self._places:
            return b""
        request = self._job.request
        return frame(
            f"{self._event}.partial_image",
            {
                "type": f"{self._event}.partial_image",
                "b64_json": json_of(event.image),
                "partial_image_index": self._places.index(event.step),
                "created_at": int(time.time()),
                "size": f"{request.width}x{request.height}",
                "quality": "auto",
                "background": "auto",
                "output_format": "jpeg",
            },
        )

    def error_frame(self, error: MoldError, number: int | None) -> bytes:
        """Return an error in the form of OpenAI's streams."""
        return frame("error", openai_error(error)[1])

    def _completed(self, kind: JobKind, result: GenerateResponse) -> bytes:
        return b"".join(
            frame(
                f"{self._event}.completed",
                {
                    "type": f"{self._event}.completed",
                    "b64_json": json_of(image.data),
                    "created_at": int(time.time()),
                    "size": f"{image.width}x{image.height}",
                    "quality": "auto",
                    "background": "auto",
                    "output_format": image.format,
                    "usage": _NO_USAGE,
                },
            )
            for image in result.images
        )


def _places(count: int, steps: int) -> list[int]:
    """Return the steps whose previews are sent: `count` of them, spread over all but the last."""
    return sorted({max(1, steps * place // (count + 1)) for place in range(1, count + 1)}) if steps > 1 else []


# mold bills nothing, but the event class of the client requires the fields.
_NO_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


def openai_error(error: MoldError) -> tuple[int, dict[str, Any]]:
    """Return the status and body of an error in the form of OpenAI's API."""
    envelope, status = error.to_json(), error.http_status
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    code = {"UNKNOWN_MODEL": "model_not_found", "MODEL_NOT_FOUND": "model_not_found"}.get(error.code)
    if status == 401:
        code = "invalid_api_key"
    body = {"message": envelope["error"], "type": kind, "param": error.field, "code": code or error.code.lower()}
    return {422: 400}.get(status, status), {"error": body}


# Errors that a later retry may solve.
_WORTH_A_RETRY = frozenset({"RATE_LIMITED", "QUEUE_FULL", "INSUFFICIENT_MEMORY"})


def openai_headers(error: MoldError) -> dict[str, str]:
    """Return headers that stop OpenAI's clients from retrying, which they do by default after 409 and 500."""
    return {} if error.code in _WORTH_A_RETRY else {"X-Should-Retry": "false"}


def _request_of(body: ImageGeneration, **more: Any) -> GenerateRequest:
    width, height = _size(body.size)
    return GenerateRequest(
        prompt=body.prompt,
        model=body.model,
        batch_size=body.n or 1,
        width=width,
        height=height,
        output_format=body.output_format or "png",
        steps=body.steps,
        seed=body.seed,
        guidance=body.guidance,
        negative_prompt=body.negative_prompt,
        loras=body.loras,
        preview=bool(body.stream and body.partial_images),
        **more,
    )


def _edit_request_of(edit: ImageEdit) -> GenerateRequest:
    more: dict[str, Any] = {"source_image": edit.image}
    if edit.strength is not None:
        more["strength"] = edit.strength
    if edit.mask is not None:
        more["mask_image"] = _mold_mask(edit.mask)
    return _request_of(edit, **more)


def _mold_mask(mask: bytes) -> bytes:
    """Return a mask with white areas to regenerate; OpenAI's masks use transparent ones."""
    return transparency_mask(mask, name="mask") or mask


def _size(text: str | None) -> tuple[int | None, int | None]:
    if text is None or text == "auto":
        return None, None
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValidationError("size must be WIDTHxHEIGHT, such as 1024x1024, or auto", field="size", value=text)
    return int(match[1]), int(match[2])


# --- forms ---------------------------------------------------------------------------------------------------------

_NUMBERS = frozenset({"n", "steps", "seed", "guidance", "strength", "partial_images"})
_FILES = frozenset({"image", "image[]", "mask"})
_LORA = re.compile(r"loras\[(\d*)\]\[(path|scale)\]")


async def _read_form(req: falcon.asgi.Request) -> ImageEdit:
    """Return the edit in a form. Raises the errors of `read_json`."""
    form = await read_form(req, _FILES)
    files, texts = form.files, form.texts
    loras = _loras(texts)
    fields: dict[str, Any] = {name: _value(name, values[-1]) for name, values in texts.items() if "[" not in name}
    if loras is not None:
        fields["loras"] = loras
    image = files.get("image") or files.get("image[]")
    if image is None:
        raise ValidationError("image is required", field="image", hint="send it as a file of the form")
    return from_json(ImageEdit, {**fields, "image": image, "mask": files.get("mask")})


def _value(name: str, text: str) -> Any:
    """Return a form field as a JSON value."""
    if name == "stream":
        return text.lower() == "true"
    if name not in _NUMBERS and name != "loras":
        return text
    try:
        return parse_json(text.encode())
    except (ValueError, MoldError):
        raise MalformedError(f"{name} cannot be read", field=name) from None


def _loras(texts: Mapping[str, list[str]]) -> list[dict[str, Any]] | None:
    """Return the LoRAs in ``loras[][path]`` and ``loras[][scale]``, the form in which the client sends lists."""
    columns: dict[str, list[str]] = {}
    for name, values in texts.items():
        match = _LORA.fullmatch(name)
        if match:
            columns.setdefault(match[2], []).extend(values)
    paths, scales = columns.get("path", []), columns.get("scale", [])
    if not paths:
        return None
    if scales and len(scales) != len(paths):
        raise ValidationError("loras must all have a scale, or none", field="loras")
    rows = [{"path": path} for path in paths]
    return [{**row, "scale": _value("guidance", scale)} for row, scale in zip(rows, scales, strict=True)] or rows


_ERRORS = (
    "UNKNOWN_MODEL",
    "MODEL_NOT_FOUND",
    "CANCELLED",
    "INFERENCE_ERROR",
    "QUEUE_FULL",
    "INSUFFICIENT_MEMORY",
)

_EVENTS = ("image_generation.partial_image", "image_generation.completed", "error")
_EDIT_EVENTS = ("image_edit.partial_image", "image_edit.completed", "error")

ROUTES = (
    Route(
        method="GET",
        path="/v1/models",
        name="openai_models",
        summary="List the installed models, in OpenAI's form",
        handler=list_models,
        tag="openai",
        responses=(ResponseSpec(doc="The models.", content={JSON: ModelList}),),
    ),
    Route(
        method="POST",
        path="/v1/images/generations",
        name="openai_generate",
        summary="Generate images, in OpenAI's form",
        doc="`stream` sends the events `image_generation.partial_image` and `image_generation.completed`.",
        handler=generations,
        tag="openai",
        request=ImageGeneration,
        responses=(ResponseSpec(doc="The images.", content={JSON: ImagesAnswer, EVENT_STREAM: _EVENTS}),),
        errors=_ERRORS,
        tier="generation",
        example=(
            "from openai import OpenAI\n\n"
            'client = OpenAI(base_url="http://localhost:7680/v1", api_key="unused")\n'
            'response = client.images.generate(prompt="a red house", n=2, extra_body={"steps": 8, "seed": 7})'
        ),
    ),
    Route(
        method="POST",
        path="/v1/images/edits",
        name="openai_edit",
        summary="Generate images from an input image, in OpenAI's form",
        doc="A form with the file `image`, an optional file `mask`, `strength`, and the fields of generations.",
        handler=edits,
        tag="openai",
        request=ImageEdit,
        body_type="multipart/form-data",
        responses=(ResponseSpec(doc="The images.", content={JSON: ImagesAnswer, EVENT_STREAM: _EDIT_EVENTS}),),
        errors=_ERRORS,
        tier="generation",
    ),
)
