"""POST /api/upscale and its stream: larger images."""

from __future__ import annotations

import falcon.asgi

from mold_core.media.formats import CONTENT_TYPES
from mold_core.wire.upscale import UpscaleRequest, UpscaleResponse
from mold_http.guard.bodies import read_json
from mold_http.jobs import JobSource, result_of, submit
from mold_http.responses import JSON
from mold_http.results import answer_result, result_frame
from mold_http.routes.route import EVENT_STREAM, EVENTS, Answer, Route
from mold_http.service import Service
from mold_http.sse import send_events

__all__ = ["ROUTES"]


async def upscale(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Answer with the larger image itself, or with JSON where Accept asks for it."""
    job = await submit(service, req, await read_json(req, UpscaleRequest), durable=False)
    await answer_result(req, resp, await result_of(req, job), "base64")


async def upscale_stream(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Answer with events ``progress``, a denoise_step for each tile, and one ``complete`` or ``error``."""
    job = await submit(service, req, await read_json(req, UpscaleRequest), durable=False)
    send_events(req, resp, service.feeds, JobSource(service, job, result_frame), patient=True)


_ERRORS = (
    "UNKNOWN_MODEL",
    "MODEL_NOT_FOUND",
    "CANCELLED",
    "INFERENCE_ERROR",
    "QUEUE_FULL",
    "INSUFFICIENT_MEMORY",
)

ROUTES = (
    Route(
        method="POST",
        path="/api/upscale",
        name="upscale",
        summary="Enlarge an image; the answer is the image",
        doc="Without `model` one that needs no download is used.",
        handler=upscale,
        tag="upscale",
        request=UpscaleRequest,
        answers=(
            Answer(
                doc="The image as it is; JSON where Accept asks for `application/json`.",
                content={
                    **{CONTENT_TYPES[name]: "the file" for name in ("png", "jpeg", "webp")},
                    JSON: UpscaleResponse,
                },
            ),
        ),
        errors=_ERRORS,
        tier="generation",
        example=(
            "curl -X POST localhost:7680/api/upscale -H 'Content-Type: application/json' \\\n"
            """  -d "{\\"image\\": \\"$(base64 < photo.png)\\"}" -o larger.png"""
        ),
    ),
    Route(
        method="POST",
        path="/api/upscale/stream",
        name="upscale_stream",
        summary="Enlarge an image and follow the progress",
        doc="Events are `progress` (a denoise_step for each tile), then one `complete` or one `error`.",
        handler=upscale_stream,
        tag="upscale",
        request=UpscaleRequest,
        answers=(Answer(doc="Events.", content={EVENT_STREAM: EVENTS}),),
        errors=_ERRORS,
        tier="generation",
    ),
)
