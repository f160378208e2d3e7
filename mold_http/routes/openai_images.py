"""The image routes of OpenAI's API, as its official clients call them."""

from __future__ import annotations

import asyncio

import attrs
import falcon.asgi

from mold_core.catalog import ModelSpec
from mold_core.errors import ValidationError
from mold_core.wire import GenerateRequest, GenerateResponse
from mold_http.guard.bodies import read_json
from mold_http.guard.proxies import site_of
from mold_http.jobs import result_of, submit
from mold_http.openai.image_requests import (
    ImageEdit,
    ImageGeneration,
    edit_request,
    generation_request,
    read_edit,
    refuse_unusable,
)
from mold_http.openai.image_responses import FILES_PATH, ImagesResponse, ImageStream, images_response
from mold_http.openai.names import chosen_model
from mold_http.responses import JSON, respond_json
from mold_http.routes import gallery
from mold_http.routes.route import EVENT_STREAM, ResponseSpec, Route
from mold_http.service import Service
from mold_http.sse import send_events

__all__ = ["MODEL_HEADER", "ROUTES"]

MODEL_HEADER = {"X-Mold-Model": "Full name of the model that generates."}


async def generations(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with images generated from a prompt."""
    body = await read_json(req, ImageGeneration)
    spec = await _model(service, resp, body)
    await _respond(service, req, resp, body, generation_request(body, spec), "image_generation")


async def edits(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with images generated from input images."""
    edit = await read_edit(req)
    spec = await _model(service, resp, edit)
    request = await service.media.run(req, edit_request, edit, spec, service.engine.capabilities(spec))
    await _respond(service, req, resp, edit, request, "image_edit")


async def _model(service: Service, resp: falcon.asgi.Response, body: ImageGeneration) -> ModelSpec:
    """Return the model of a request, and name it in a header. Raises ValidationError for what it cannot do."""
    spec = await asyncio.to_thread(chosen_model, service.engine, body.model, "images")
    refuse_unusable(body, spec, service.engine.capabilities(spec))
    if body.response_format == "url" and service.gallery is None:
        raise ValidationError(
            "response_format url needs the gallery, and MOLD_OUTPUT_DIR is empty", field="response_format"
        )
    resp.set_header("X-Mold-Model", spec.name)
    return spec


async def _respond(
    service: Service,
    req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    body: ImageGeneration,
    request: GenerateRequest,
    event: str,
) -> None:
    job = await submit(service, req, request, durable=False)
    if body.stream:
        send_events(req, resp, service.feeds, ImageStream(service, job, event, body), patient=True)
        return
    result: GenerateResponse = await result_of(req, job)
    base = site_of(req).url if body.response_format == "url" else None
    respond_json(resp, await asyncio.to_thread(images_response, body, result, base))


_ERRORS = (
    "UNKNOWN_MODEL",
    "MODEL_NOT_FOUND",
    "CANCELLED",
    "INFERENCE_ERROR",
    "QUEUE_FULL",
    "INSUFFICIENT_MEMORY",
)

_GALLERY_FILE = next(route for route in gallery.ROUTES if route.name == "get_result")

_EVENTS = ("image_generation.partial_image", "image_generation.completed", "error")
_EDIT_EVENTS = ("image_edit.partial_image", "image_edit.completed", "error")

ROUTES = (
    Route(
        method="POST",
        path="/v1/images/generations",
        name="openai_generate",
        summary="Generate images, in OpenAI's form",
        doc="`stream` sends the events `image_generation.partial_image` and `image_generation.completed`.",
        handler=generations,
        tag="openai",
        request=ImageGeneration,
        responses=(
            ResponseSpec(
                doc="The images.", content={JSON: ImagesResponse, EVENT_STREAM: _EVENTS}, headers=MODEL_HEADER
            ),
        ),
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
        summary="Generate images from input images, in OpenAI's form",
        doc=(
            "A form with the file `image`, an optional file `mask`, `strength`, and the fields of generations. Models "
            "that can do image-editing take several files `image[]`."
        ),
        handler=edits,
        tag="openai",
        request=ImageEdit,
        body_type="multipart/form-data",
        responses=(
            ResponseSpec(
                doc="The images.", content={JSON: ImagesResponse, EVENT_STREAM: _EDIT_EVENTS}, headers=MODEL_HEADER
            ),
        ),
        errors=_ERRORS,
        tier="generation",
    ),
    attrs.evolve(
        _GALLERY_FILE,
        path=f"{FILES_PATH}/{{name}}",
        name="openai_image_file",
        summary="Fetch the file of a URL in a response",
        doc="The file in the gallery; under `/v1`, so that OpenAI's clients open it with their key.",
        tag="openai",
        example="",
    ),
)
