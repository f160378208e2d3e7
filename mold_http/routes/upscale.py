"""POST /api/upscale and its stream: image upscaling."""

from __future__ import annotations

import asyncio

import falcon.asgi

from mold_core.jobs.kinds import JOB_KINDS
from mold_core.media.formats import CONTENT_TYPES
from mold_core.wire.upscale import UpscaleRequest, UpscaleResponse
from mold_http.guard.bodies import read_json
from mold_http.jobs import JobSource, result_of, submit
from mold_http.responses import JSON, json_of, respond_json
from mold_http.results import respond_result, result_frame
from mold_http.routes.route import EVENT_STREAM, EVENTS, ResponseSpec, Route
from mold_http.service import Service
from mold_http.sse import send_events

__all__ = ["ROUTES"]


async def upscale(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the upscaled image, or with JSON if Accept requests it."""
    job = await submit(service, req, await read_json(req, UpscaleRequest), durable=False)
    result = await result_of(req, job)
    if service.settings.compat == "reference":
        respond_json(resp, await asyncio.to_thread(json_of, result))
        return
    await respond_result(req, resp, JOB_KINDS[job.kind], result, "base64")


async def upscale_stream(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with ``progress`` events, one denoise_step per tile, then one ``complete`` or ``error``."""
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
        summary="Upscale an image; the response is the image",
        doc="Without `model`, an installed upscaler is used.",
        handler=upscale,
        tag="upscale",
        request=UpscaleRequest,
        responses=(
            ResponseSpec(
                doc="The image as a file; JSON if Accept requests `application/json`.",
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
        summary="Upscale an image and stream the progress",
        doc="Events are `progress` (one denoise_step per tile), then one `complete` or one `error`.",
        handler=upscale_stream,
        tag="upscale",
        request=UpscaleRequest,
        responses=(ResponseSpec(doc="Events.", content={EVENT_STREAM: EVENTS}),),
        errors=_ERRORS,
        tier="generation",
    ),
)
