"""PUT and DELETE /api/config/model/{name}/placement: on which devices the parts of a model are from now on."""

from __future__ import annotations

import asyncio

import attrs
import falcon.asgi

from mold_core.wire import DevicePlacement
from mold_core.wire.fields import wire_field
from mold_http.guard.bodies import read_json
from mold_http.responses import JSON, answer_json
from mold_http.routes.route import Answer, Route
from mold_http.routes.status import refuse_strangers
from mold_http.service import Service

__all__ = ["ROUTES", "PlacementChanged"]


@attrs.frozen(kw_only=True)
class PlacementChanged:
    """A placement was written down, or taken back."""

    ok: bool = wire_field("true.")
    model: str | None = wire_field("Full name of the model.", default=None)


async def put(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str) -> None:
    """Place a model, and write that into config.toml."""
    _refuse(service, req)
    placement = await read_json(req, DevicePlacement)
    model = await asyncio.to_thread(service.engine.place, name, placement)
    answer_json(resp, PlacementChanged(ok=True, model=model))


async def delete(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str) -> None:
    """Let mold choose again; nothing happens where nobody had said anything."""
    _refuse(service, req)
    await asyncio.to_thread(service.engine.place, name, None)
    answer_json(resp, PlacementChanged(ok=True))


def _refuse(service: Service, req: falcon.asgi.Request) -> None:
    refuse_strangers(service, req, "changing the configuration requires API key auth or localhost access")


_NAME = {"name": "Model name, with or without its tag."}

ROUTES = (
    Route(
        method="PUT",
        path="/api/config/model/{name}/placement",
        name="place_model",
        summary="Say on which devices the parts of a model are",
        doc=(
            "Kept in config.toml, for all requests without a `placement` of their own; the model is loaded again for "
            "the next. A placement names one GPU at most, and the worker of that GPU runs the model. "
            "/api/capabilities tells devices, and the parts that a family places; a model of another family is placed "
            "as a whole, by the same device for text_encoders, transformer and vae. Without API keys only clients on "
            "this machine may."
        ),
        handler=put,
        tag="models",
        request=DevicePlacement,
        path_docs=_NAME,
        answers=(Answer(doc="It is written down.", content={JSON: PlacementChanged}),),
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
        summary="Let mold choose the devices of a model again",
        handler=delete,
        tag="models",
        path_docs=_NAME,
        answers=(Answer(doc="It is taken back.", content={JSON: PlacementChanged}),),
        errors=("UNKNOWN_MODEL", "NOT_FOUND", "OUTPUT_ERROR", "SETTINGS_ERROR"),
    ),
)
