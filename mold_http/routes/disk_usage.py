"""Files on this machine's disk: details of a model, its removal, LoRAs, disk usage, saved chains."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TypeVar

import attrs
import falcon.asgi

from mold_core.catalog.details import ChainDetails, DiskUsage, LoraFile, ModelDetails, Removal
from mold_core.errors import ValidationError
from mold_core.wire.chain import ChainRequest
from mold_core.wire.fields import wire_field
from mold_http.guard.bodies import query_of, read_json
from mold_http.responses import JSON, respond_json
from mold_http.routes.route import Query, ResponseSpec, Route
from mold_http.routes.status import refuse_strangers
from mold_http.service import Service

__all__ = ["ROUTES", "RemoveRequest"]

PlacedModel = TypeVar("PlacedModel")


@attrs.frozen(kw_only=True)
class RemoveRequest:
    """A model to delete from the disk."""

    model: str = wire_field("Model name, with or without its tag.", not_blank=True, max_length=200)
    dry_run: bool = wire_field("Only report what would be deleted.", default=False)


async def model(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the details of a model."""
    name = query_of(req).get("model")
    if not name:
        raise ValidationError("model is required", field="model", hint="add ?model=NAME")
    details = await asyncio.to_thread(service.engine.disk.model, name)
    root = service.engine.resolve(name).root or service.engine.store.models_dir
    files = tuple(attrs.evolve(file, path=_within(file.path, root)) for file in details.files)
    respond_json(resp, attrs.evolve(details, files=files))


async def remove(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Unload a model, delete it from the disk, and respond with what was deleted."""
    request = await read_json(req, RemoveRequest)
    refuse_strangers(service, req, "models can be removed from this machine only", hint="or with a key: MOLD_API_KEY")
    removal = await asyncio.to_thread(_remove, service, request)
    models = service.engine.store.models_dir
    files = tuple(attrs.evolve(file, path=_within(file.path, models)) for file in removal.files)
    kept = tuple(attrs.evolve(file, path=_within(file.path, models)) for file in removal.kept)
    respond_json(resp, attrs.evolve(removal, files=files, kept=kept))


async def loras(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the installed LoRAs."""
    found = await asyncio.to_thread(service.engine.disk.loras)
    respond_json(resp, [attrs.evolve(lora, path=None) for lora in found])


async def disk(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the disk usage."""
    usage = await asyncio.to_thread(service.engine.disk.usage)
    respond_json(resp, attrs.evolve(usage, models_dir=None, output_dir=None))


async def chains(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the saved chains."""
    respond_json(resp, list(await asyncio.to_thread(service.engine.disk.chains)))


async def saved_chain(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, id: str) -> None:
    """Respond with the request of a saved chain."""
    respond_json(resp, await asyncio.to_thread(service.engine.disk.chain, id))


def _remove(service: Service, request: RemoveRequest) -> Removal:
    disk = service.engine.disk
    planned = disk.plan_removal(request.model)
    if request.dry_run:
        return planned
    if planned.model in service.engine.loaded():
        service.engine.unload(planned.model)
    return disk.remove(request.model)


def _within(path: str, folder: Path) -> str:
    """Return a path that clients may see: relative to a models folder, or else only the file name."""
    file = Path(path)
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name


ROUTES = (
    Route(
        method="GET",
        path="/api/models/details",
        name="model_details",
        summary="Details of a model",
        doc="Its files, and whether it fits into memory: the size of each component, and the needs of each strategy.",
        handler=model,
        tag="models",
        parameters=(Query(name="model", doc="Name of the model.", required=True),),
        responses=(ResponseSpec(doc="The model.", content={JSON: ModelDetails}),),
        errors=("UNKNOWN_MODEL", "CHECKPOINT_ERROR"),
        example="curl 'localhost:7680/api/models/details?model=flux-nano'",
    ),
    Route(
        method="DELETE",
        path="/api/models/files",
        name="remove_model",
        summary="Delete a model from the disk",
        doc=(
            "Files that another downloaded model needs are kept. Requires an API key or a client on this machine. With "
            "`dry_run` nothing is deleted."
        ),
        handler=remove,
        tag="models",
        request=RemoveRequest,
        responses=(
            ResponseSpec(
                doc="The files that were or would be deleted, and those that are kept.", content={JSON: Removal}
            ),
        ),
        errors=("UNKNOWN_MODEL", "MODEL_NOT_FOUND", "OUTPUT_ERROR"),
        tier="generation",
        example=(
            "curl -X DELETE localhost:7680/api/models/files -H 'Content-Type: application/json' \\\n"
            """  -d '{"model": "flux-schnell:q8", "dry_run": true}'"""
        ),
    ),
    Route(
        method="GET",
        path="/api/loras",
        name="list_loras",
        summary="The installed LoRAs",
        handler=loras,
        tag="models",
        responses=(ResponseSpec(doc="The LoRAs.", content={JSON: tuple[LoraFile, ...]}),),
    ),
    Route(
        method="GET",
        path="/api/disk",
        name="disk",
        summary="Disk usage",
        handler=disk,
        tag="server",
        responses=(ResponseSpec(doc="Bytes of models, results, caches and other files.", content={JSON: DiskUsage}),),
    ),
    Route(
        method="GET",
        path="/api/chains",
        name="list_chains",
        summary="The saved chains, newest first",
        handler=chains,
        tag="generate",
        responses=(ResponseSpec(doc="The chains.", content={JSON: tuple[ChainDetails, ...]}),),
    ),
    Route(
        method="GET",
        path="/api/chains/{id}",
        name="get_chain",
        summary="The request of a saved chain",
        doc="Send it again to resume the chain after its last finished clip.",
        handler=saved_chain,
        tag="generate",
        path_docs={"id": "Id of the chain."},
        responses=(ResponseSpec(doc="The request.", content={JSON: ChainRequest}),),
        errors=("VALIDATION_ERROR",),
    ),
)
