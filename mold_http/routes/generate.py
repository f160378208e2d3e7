"""POST /api/generate, and the same with its progress as server-sent events."""

from __future__ import annotations

import falcon.asgi

from mold_core.errors import ValidationError
from mold_core.media.formats import CONTENT_TYPES
from mold_core.wire import GenerateRequest, GenerateResponse
from mold_http.guard.bodies import query_of, read_json
from mold_http.guard.proxies import site_of
from mold_http.jobs import JobSource, result_of, submit
from mold_http.responses import JSON
from mold_http.results import FORMS, ImageDataForm, answer_result, result_frame
from mold_http.routes.route import EVENT_STREAM, EVENTS, Answer, Query, Route
from mold_http.service import Service
from mold_http.sse import send_events

__all__ = ["IMAGE_DATA", "IMAGE_HEADERS", "ROUTES", "image_data_of"]

IMAGE_DATA = Query(
    name="image_data",
    doc=(
        "How JSON carries the images: `bytes` as arrays of numbers, `base64` as text, `url` as paths into the "
        "gallery, `none` not at all."
    ),
    type=ImageDataForm,
    default="bytes",
)


async def generate(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Answer with the image itself; with several as multipart/mixed; with JSON where Accept asks for it."""
    form = image_data_of(req)
    job = await submit(service, req, await read_json(req, GenerateRequest), durable=False)
    await answer_result(req, resp, await result_of(req, job), form)


async def generate_stream(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Answer with events ``progress``, and one ``complete`` or ``error`` at the end."""
    form = image_data_of(req)
    job = await submit(service, req, await read_json(req, GenerateRequest), durable=False)
    prefix = site_of(req).prefix
    source = JobSource(service, job, lambda result: result_frame(result, form, prefix))
    send_events(req, resp, service.feeds, source, patient=True)


def image_data_of(req: falcon.asgi.Request) -> ImageDataForm:
    """Return what the parameter `image_data` asks for. Raises ValidationError."""
    word = query_of(req).get("image_data", "bytes")
    for form in FORMS:
        if word == form:
            return form
    raise ValidationError(f"image_data must be one of {', '.join(FORMS)}", field="image_data", value=word)


_DOC = (
    "Only `prompt` is required; the rest defaults to what suits the model. Sizes that the model cannot make are "
    "adjusted, never refused. Closing the connection cancels the job."
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
    "X-Mold-Dimension-Warning": "`dimensions adjusted from AxB to CxD`, where they were.",
    "X-Mold-Gpu": "Number of the GPU that made it, where there are several.",
}

ROUTES = (
    Route(
        method="POST",
        path="/api/generate",
        name="generate",
        summary="Make images; the answer is the image",
        doc=_DOC + " `batch_size` images have seeds that count up from `seed`.",
        handler=generate,
        tag="generate",
        request=GenerateRequest,
        parameters=(IMAGE_DATA,),
        answers=(
            Answer(
                doc=(
                    "One image as it is; several as `multipart/mixed`, each part with its `X-Mold-Seed-Used`; JSON "
                    "where Accept asks for `application/json`."
                ),
                content={
                    **dict.fromkeys(CONTENT_TYPES.values(), "the file"),
                    "multipart/mixed": "one part for each image",
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
        summary="Make images and follow the progress",
        doc=_DOC + " Events are `progress` (queued, stage_start, stage_done, weight_load, denoise_step, preview, info, "
        "cache_hit), then one `complete` with the result, or one `error` with `message` and `code`.",
        handler=generate_stream,
        tag="generate",
        request=GenerateRequest,
        parameters=(IMAGE_DATA,),
        answers=(Answer(doc="Events.", content={EVENT_STREAM: EVENTS}),),
        errors=_ERRORS,
        tier="generation",
        example=(
            "curl -N 'localhost:7680/api/generate/stream?image_data=url' \\\n"
            "  -H 'Content-Type: application/json' \\\n"
            """  -d '{"prompt": "three green trees", "steps": 8, "batch_size": 2}'"""
        ),
    ),
)
