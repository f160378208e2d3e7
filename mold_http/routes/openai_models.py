"""The model routes of OpenAI's API."""

from __future__ import annotations

import asyncio
from typing import Literal

import attrs
import falcon.asgi

from mold_core.catalog import ModelSpec
from mold_core.errors import ModelNotFoundError
from mold_core.wire.fields import wire_field
from mold_http.openai.names import chosen_model, named_model
from mold_http.responses import JSON, respond_json
from mold_http.routes.route import ResponseSpec, Route
from mold_http.service import Service

__all__ = ["ROUTES", "OpenAIModel", "OpenAIModels"]


@attrs.frozen(kw_only=True)
class OpenAIModel:
    """A model, as OpenAI's API lists it."""

    id: str = wire_field("Name of the model.")
    object: Literal["model"] = wire_field("Object type.", default="model")
    created: int = wire_field("Always 0.", default=0)
    owned_by: str = wire_field("The family of the model.")


@attrs.frozen(kw_only=True)
class OpenAIModels:
    """The installed models."""

    object: Literal["list"] = wire_field("Object type.", default="list")
    data: tuple[OpenAIModel, ...] = wire_field("The models.")


async def list_models(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the installed models that can run."""
    usable = await asyncio.to_thread(_usable, service)
    respond_json(resp, OpenAIModels(data=tuple(OpenAIModel(id=spec.name, owned_by=spec.family) for spec in usable)))


async def get_model(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, id: str) -> None:
    """Respond with one installed model."""
    respond_json(resp, await asyncio.to_thread(_model, service, id))


def _model(service: Service, name: str) -> OpenAIModel:
    spec = named_model(service.engine, name)
    if spec is None:
        spec = chosen_model(service.engine, name, "videos" if name.lower().startswith("sora") else "images")
        return OpenAIModel(id=name, owned_by=spec.family)
    if spec not in _usable(service):
        raise ModelNotFoundError(
            f"{spec.name} is not installed", field="model", value=spec.name, hint=f"download it: mold pull {spec.name}"
        )
    return OpenAIModel(id=spec.name, owned_by=spec.family)


def _usable(service: Service) -> list[ModelSpec]:
    return [entry.spec for entry in service.engine.models() if entry.downloaded and entry.runnable]


ROUTES = (
    Route(
        method="GET",
        path="/v1/models",
        name="openai_models",
        summary="List the installed models, in OpenAI's form",
        handler=list_models,
        tag="openai",
        responses=(ResponseSpec(doc="The models.", content={JSON: OpenAIModels}),),
    ),
    Route(
        method="GET",
        path="/v1/models/{id}",
        name="openai_model",
        summary="Describe an installed model, in OpenAI's form",
        doc="OpenAI's own names describe the default model that they mean.",
        handler=get_model,
        tag="openai",
        path_docs={"id": "Model name, with or without its tag."},
        responses=(ResponseSpec(doc="The model.", content={JSON: OpenAIModel}),),
        errors=("UNKNOWN_MODEL", "MODEL_NOT_FOUND", "SETTINGS_ERROR"),
    ),
)
