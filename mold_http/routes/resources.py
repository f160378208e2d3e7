"""GET /api/resources and its stream: what the machine has and uses."""

from __future__ import annotations

import falcon.asgi

from mold_http.resources import ResourceSnapshot, ResourceSource
from mold_http.responses import JSON, answer_json
from mold_http.routes.route import EVENT_STREAM, Answer, Route
from mold_http.service import Service
from mold_http.sse import send_events

__all__ = ["ROUTES"]


async def resources(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Answer with a snapshot."""
    answer_json(resp, await service.resources.latest())


async def stream(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Answer with a snapshot now, and another every second."""
    send_events(req, resp, service.feeds, ResourceSource(service.resources, service.feeds))


ROUTES = (
    Route(
        method="GET",
        path="/api/resources",
        name="resources",
        summary="What the machine has and uses",
        handler=resources,
        tag="server",
        answers=(Answer(doc="A snapshot.", content={JSON: ResourceSnapshot}),),
        example="curl localhost:7680/api/resources",
    ),
    Route(
        method="GET",
        path="/api/resources/stream",
        name="stream_resources",
        summary="What the machine has and uses, every second",
        doc="Events are `snapshot`.",
        handler=stream,
        tag="server",
        answers=(Answer(doc="Events.", content={EVENT_STREAM: ("snapshot",)}),),
    ),
)
