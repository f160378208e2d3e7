"""GET /api/resources and its stream: resource usage of the machine."""

from __future__ import annotations

import falcon.asgi

from mold_http.resources import ResourceSnapshot, ResourceSource
from mold_http.responses import JSON, respond_json
from mold_http.routes.route import EVENT_STREAM, ResponseSpec, Route
from mold_http.server_events import SERVER_EVENTS, ServerEventSource
from mold_http.service import Service
from mold_http.sse import send_events

__all__ = ["ROUTES"]


async def resources(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with a snapshot."""
    respond_json(resp, await service.resources.latest())


async def stream(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with a snapshot now and every second."""
    send_events(req, resp, service.feeds, ResourceSource(service.resources, service.feeds))


async def events(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the state of the server, then with its changes."""
    send_events(req, resp, service.feeds, ServerEventSource(service))


ROUTES = (
    Route(
        method="GET",
        path="/api/events",
        name="server_events",
        summary="Stream changes of the whole server",
        doc=(
            "Sends `job` (as /api/jobs/ID), `queue`, `models` (those in memory), `download` (as /api/downloads) and "
            "`gallery` (the name of a new result): what is so at first, and then every change, within a second."
        ),
        handler=events,
        tag="server",
        responses=(ResponseSpec(doc="Events.", content={EVENT_STREAM: SERVER_EVENTS}),),
        example="curl -N localhost:7680/api/events",
    ),
    Route(
        method="GET",
        path="/api/resources",
        name="resources",
        summary="Resource usage of the machine",
        handler=resources,
        tag="server",
        responses=(ResponseSpec(doc="A snapshot.", content={JSON: ResourceSnapshot}),),
        example="curl localhost:7680/api/resources",
    ),
    Route(
        method="GET",
        path="/api/resources/stream",
        name="stream_resources",
        summary="Stream resource usage every second",
        doc="Sends `snapshot` events.",
        handler=stream,
        tag="server",
        responses=(ResponseSpec(doc="Events.", content={EVENT_STREAM: ("snapshot",)}),),
    ),
)
