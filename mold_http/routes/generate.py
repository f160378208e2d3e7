"""POST /api/generate, and its variant with progress as server-sent events."""

from __future__ import annotations

import falcon.asgi

from mold_core.errors import ValidationError
from mold_core.jobs.kinds import JOB_KINDS
from mold_core.media.formats import CONTENT_TYPES
from mold_core.wire import GenerateRequest, GenerateResponse
from mold_http.guard.bodies import query_of, read_json
from mold_http.guard.proxies import site_of
from mold_http.jobs import JobSource, result_of, submit
from mold_http.responses import JSON
from mold_http.results import FORMS, ImageDataForm, respond_result, result_frame
from mold_http.routes.route import EVENT_STREAM, EVENTS, Query, ResponseSpec, Route
from mold_http.service import Service
from mold_http.sse import send_events

__all__ = ["IMAGE_DATA", "IMAGE_HEADERS", "ROUTES", "image_data_of"]

IMAGE_DATA = Query(
    name="image_data",
    doc=("Form of the images in JSON: `bytes` (arrays of numbers), `base64` (text), `url` (gallery paths) or `none`."),
    type=ImageDataForm,
    default="bytes",
)


async def generate(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the image, with several as multipart/mixed, or with JSON if Accept requests it."""
    form = image_data_of(req)
    job = await submit(service, req, await read_json(req, GenerateRequest), durable=False)
    await respond_result(req, resp, JOB_KINDS[job.kind], await result_of(req, job), form)


async def generate_stream(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with ``progress`` events, then one ``complete`` or ``error``."""
    form = image_data_of(req)
    job = await submit(service, req, await read_json(req, GenerateRequest), durable=False)
    prefix = site_of(req).prefix
    source = JobSource(service, job, lambda kind, result: result_frame(kind, result, form, prefix))
    send_events(req, resp, service.feeds, source, patient=True)


def image_data_of(req: falcon.asgi.Request) -> ImageDataForm:
    """Return the value of the parameter `image_data`. Raises ValidationError."""
    word = query_of(req).get("image_data", "bytes")
    for form in FORMS:
        if word == form:
            return form
    raise ValidationError(f"image_data must be one of {', '.join(FORMS)}", field="image_data", value=word)


_DOC = (
    "Only `prompt` is required; the other fields default to values of the model. Sizes that the model does not support "
    "are adjusted, never refused. Closing the connection cancels the job."
)
_ERRORS = (
    "UNKNOWN_MODEL",
    "MODEL_NOT_FOUND",
    "CANCELLED",
    "INFERENCE_ERROR",
    "QUEUE_FULL",
    "INSUFFICIENT_MEMORY",
)
IMAGE_HEADERS = {
    "X-Mold-Seed-Used": "Seed of the first image.",
    "X-Mold-Dimension-Warning": "`dimensions adjusted from AxB to CxD`, if they were adjusted.",
}

ROUTES = (
    Route(
        method="POST",
        path="/api/generate",
        name="generate",
        summary="Generate images; the response is the image",
        doc=_DOC + " The seeds of `batch_size` images count up from `seed`.",
        handler=generate,
        tag="generate",
        request=GenerateRequest,
        parameters=(IMAGE_DATA,),
        responses=(
            ResponseSpec(
                doc=(
                    "One image as a file; several as `multipart/mixed`, each part with its `X-Mold-Seed-Used`; JSON "
                    "if Accept requests `application/json`."
                ),
                content={
                    **dict.fromkeys(CONTENT_TYPES.values(), "the file"),
                    "multipart/mixed": "one part per image",
                    JSON: GenerateResponse,
                },
                headers=IMAGE_HEADERS,
            ),
        ),
        errors=_ERRORS,
        tier="generation",
        example=(
            "curl -X POST localhost:7680/api/generate \\\n"
            "  -H 'Content-Type: application/json' \\\n"
            """  -d '{"prompt": "a red house under a yellow moon"}' -o house.png"""
        ),
    ),
    Route(
        method="POST",
        path="/api/generate/stream",
        name="generate_stream",
        summary="Generate images and stream the progress",
        doc=_DOC + " Events are `progress` (queued, stage_start, stage_done, weight_load, denoise_step, preview, info, "
        "cache_hit), then one `complete` with the result, or one `error` with `message` and `code`.",
        handler=generate_stream,
        tag="generate",
        request=GenerateRequest,
        parameters=(IMAGE_DATA,),
        responses=(ResponseSpec(doc="Events.", content={EVENT_STREAM: EVENTS}),),
        errors=_ERRORS,
        tier="generation",
        example=(
            "curl -N 'localhost:7680/api/generate/stream?image_data=url' \\\n"
            "  -H 'Content-Type: application/json' \\\n"
            """  -d '{"prompt": "three green trees", "steps": 8, "batch_size": 2}'"""
        ),
    ),
)
