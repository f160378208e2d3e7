"""POST /api/expand: prompt expansion."""

from __future__ import annotations

import falcon.asgi

from mold_core.wire.expand import ExpandRequest, ExpandResponse
from mold_http.guard.bodies import read_json
from mold_http.jobs import result_of, submit
from mold_http.responses import JSON, respond_json
from mold_http.routes.route import ResponseSpec, Route
from mold_http.service import Service

__all__ = ["ROUTES"]


async def expand(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the expanded prompts."""
    job = await submit(service, req, await read_json(req, ExpandRequest), durable=False)
    respond_json(resp, await result_of(req, job))


ROUTES = (
    Route(
        method="POST",
        path="/api/expand",
        name="expand",
        summary="Expand a prompt with a language model",
        handler=expand,
        tag="expand",
        request=ExpandRequest,
        responses=(ResponseSpec(doc="The original prompt and the expanded ones.", content={JSON: ExpandResponse}),),
        errors=(
            "UNKNOWN_MODEL",
            "MODEL_NOT_FOUND",
            "CANCELLED",
            "INFERENCE_ERROR",
            "QUEUE_FULL",
            "INSUFFICIENT_MEMORY",
        ),
        tier="generation",
        example=(
            "curl -X POST localhost:7680/api/expand -H 'Content-Type: application/json' \\\n"
            """  -d '{"prompt": "a lighthouse", "variations": 3}'"""
        ),
    ),
)
