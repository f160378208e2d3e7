"""PUT and DELETE /api/config/model/{name}/placement: the devices of the components of a model."""

from __future__ import annotations

import asyncio

import attrs
import falcon.asgi

from mold_core.wire import DevicePlacement
from mold_core.wire.fields import wire_field
from mold_http.guard.bodies import read_json
from mold_http.responses import JSON, respond_json
from mold_http.routes.route import ResponseSpec, Route
from mold_http.routes.status import refuse_strangers
from mold_http.service import Service

__all__ = ["ROUTES", "PlacementChanged"]


@attrs.frozen(kw_only=True)
class PlacementChanged:
    """A placement was saved or removed."""

    ok: bool = wire_field("true.")
    model: str | None = wire_field("Full name of the model.", default=None)


async def put(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str) -> None:
    """Save the placement of a model in config.toml."""
    _refuse(service, req)
    placement = await read_json(req, DevicePlacement)
    model = await asyncio.to_thread(service.engine.place, name, placement)
    respond_json(resp, PlacementChanged(ok=True, model=model))


async def delete(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str) -> None:
    """Remove the placement of a model, if there is one."""
    _refuse(service, req)
    await asyncio.to_thread(service.engine.place, name, None)
    respond_json(resp, PlacementChanged(ok=True))


def _refuse(service: Service, req: falcon.asgi.Request) -> None:
    refuse_strangers(service, req, "changing the configuration requires API key auth or localhost access")


_NAME = {"name": "Model name, with or without its tag."}

ROUTES = (
    Route(
        method="PUT",
        path="/api/config/model/{name}/placement",
        name="place_model",
        summary="Set the devices of the components of a model",
        doc=(
            "Saved in config.toml; applies to all requests without their own `placement`. The model is reloaded for "
            "the next request. A placement names at most one GPU, whose worker runs the model. /api/capabilities "
            "lists the devices, and the components that a family can place. Models of other families are placed as "
            "a whole, with the same device for text_encoders, transformer and vae. Requires an API key or a client "
            "on this machine."
        ),
        handler=put,
        tag="models",
        request=DevicePlacement,
        path_docs=_NAME,
        responses=(ResponseSpec(doc="The placement is saved.", content={JSON: PlacementChanged}),),
        errors=("UNKNOWN_MODEL", "NOT_FOUND", "OUTPUT_ERROR", "PLUGIN_ERROR", "SETTINGS_ERROR"),
        example=(
            "curl -X PUT localhost:7680/api/config/model/flux-nano:bf16/placement \\\n"
            "  -H 'Content-Type: application/json' \\\n"
            """  -d '{"text_encoders": {"kind": "cpu"}}'"""
        ),
    ),
    Route(
        method="DELETE",
        path="/api/config/model/{name}/placement",
        name="unplace_model",
        summary="Remove the placement of a model",
        handler=delete,
        tag="models",
        path_docs=_NAME,
        responses=(ResponseSpec(doc="The placement is removed.", content={JSON: PlacementChanged}),),
        errors=("UNKNOWN_MODEL", "NOT_FOUND", "OUTPUT_ERROR", "SETTINGS_ERROR"),
    ),
)
