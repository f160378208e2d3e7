"""The models: list, load, unload and download."""

from __future__ import annotations

import asyncio
import math
from typing import Literal

import attrs
import falcon.asgi

from mold_core.catalog import ModelSpec
from mold_core.engine import ModelEntry
from mold_core.errors import ModelNotFoundError, MoldError, ValidationError
from mold_core.jobs.kinds import JOB_KINDS
from mold_core.wire import DevicePlacement, PullRequest
from mold_core.wire.fields import wire_field
from mold_http.accept import wants_events
from mold_http.guard.bodies import query_of, read_json
from mold_http.jobs import JobSource, result_of, submit
from mold_http.responses import JSON, respond_json
from mold_http.results import respond_result, result_frame
from mold_http.routes.route import EVENT_STREAM, EVENTS, Query, ResponseSpec, Route
from mold_http.service import Service
from mold_http.sse import send_events

__all__ = ["ROUTES", "LoadRequest", "ModelInfo", "UnloadRequest"]

# `size_gb` of a model counts only these components, not those that models share.
_UNSHARED_COMPONENTS = frozenset({"transformer", "distilled_lora", "upscaler", "llm"})


@attrs.frozen(kw_only=True)
class ModelInfo:
    """A model of the catalog."""

    name: str = wire_field("Full name, base:tag.")
    family: str = wire_field("Family of the model.")
    size_gb: float = wire_field("Size of its files in GiB, rounded up, without files shared with other models.")
    is_loaded: bool = wire_field("Whether it is in memory.")
    last_used: int | None = wire_field("Always null.")
    hf_repo: str = wire_field("Repository of its weights; may be empty.")
    default_steps: int = wire_field("Default number of steps; 0 if it has none.")
    default_guidance: float = wire_field("Default guidance scale; 0 if it has none.")
    default_width: int = wire_field("Default width in pixels; 0 if it has none.")
    default_height: int = wire_field("Default height in pixels; 0 if it has none.")
    description: str = wire_field("Short description.")
    downloaded: bool = wire_field("Whether all its files are downloaded.")
    runnable: bool = wire_field("Whether a loaded plugin can run it.")
    capabilities: tuple[str, ...] = wire_field("Capabilities of its family.")
    disk_usage_bytes: int | None = wire_field("Size of its downloaded files in bytes.", default=None)
    remaining_download_bytes: int | None = wire_field("Bytes that a download would transfer.", default=None)
    size_bytes: int | None = wire_field("Size of all its files in bytes, including shared ones.", default=None)
    licence: str | None = wire_field("Licence of its weights.", default=None)
    embedded: bool | None = wire_field("True if its files ship with a plugin.", default=None)
    part_of: str | None = wire_field(
        "Family whose models use it as a component, if it is not a model by itself.", default=None
    )
    default_frames: int | None = wire_field("Default number of frames of a video.", default=None)
    default_fps: int | None = wire_field("Default frames per second.", default=None)
    chain_frames: int | None = wire_field("Frames of a clip of a chain, if it supports chains.", default=None)
    placement: DevicePlacement | None = wire_field("Placement of its components, if configured.", default=None)
    default_because: str | None = wire_field("Reason why it is the default model, if it is.", default=None)


@attrs.frozen(kw_only=True)
class LoadRequest:
    """A model to load into memory."""

    model: str = wire_field("Model name, with or without its tag.", not_blank=True, max_length=200)
    gpu: int | None = wire_field("Number of the GPU; default: chosen by mold.", default=None, minimum=0, maximum=1023)


@attrs.frozen(kw_only=True)
class UnloadRequest:
    """What to unload: one model, all models of a GPU, or all models."""

    model: str | None = wire_field("Model; default: all.", default=None, not_blank=True, max_length=200)
    gpu: int | None = wire_field("Number of the GPU; default: all.", default=None, minimum=0, maximum=1023)


async def list_models(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the models of the catalog, and with their components if `kind` is all."""
    kind = query_of(req).get("kind", "models")
    if kind not in ("models", "all"):
        raise ValidationError("kind must be models or all", field="kind", value=kind)
    found = await asyncio.to_thread(_models, service)
    respond_json(resp, [model for model in found if kind == "all" or model.part_of is None])


async def load(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Load a model, and respond when it is loaded."""
    request = await read_json(req, LoadRequest)
    await asyncio.to_thread(service.engine.load, request.model, _device(service, request.gpu))


async def unload(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Unload models, and respond with their names."""
    request = await read_json(req, UnloadRequest, optional=True)
    dropped = await asyncio.to_thread(service.engine.unload, request.model, _device(service, request.gpu))
    several = len(service.engine.devices()) > 1
    names = [f"{device.replace('cuda:', 'gpu')}:{name}" if several else name for device, name in dropped]
    resp.content_type = "text/plain; charset=utf-8"
    resp.text = f"unloaded {', '.join(names)}\n" if names else "no model loaded\n"


async def pull(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Download a model's files; respond with a line of text at the end, or with events if Accept requests them."""
    request = await read_json(req, PullRequest)
    job = await submit(service, req, request)
    if wants_events(req, instead_of="text/plain"):
        source = JobSource(service, job, result_frame, owner=False)
        send_events(req, resp, service.feeds, source, patient=True)
        return
    await respond_result(req, resp, JOB_KINDS[job.kind], await result_of(req, job, owner=False), "none")


def _device(service: Service, gpu: int | None) -> str | None:
    """Return the device with the GPU number. Raises ModelNotFoundError if there is none."""
    if gpu is None:
        return None
    service.engine.start()
    devices = [device.device for device in service.engine.devices()]
    if f"cuda:{gpu}" in devices:
        return f"cuda:{gpu}"
    if gpu == 0 and "cuda" in devices:
        return "cuda"
    raise ModelNotFoundError(f"there is no GPU {gpu}", field="gpu", value=gpu, hint=f"devices: {', '.join(devices)}")


def _models(service: Service) -> list[ModelInfo]:
    try:
        default = service.engine.default_model()
    except MoldError:
        default = None
    return [
        _model(service, entry, default.reason if default and default.spec.name == entry.spec.name else None)
        for entry in service.engine.models()
    ]


def _model(service: Service, entry: ModelEntry, default_because: str | None) -> ModelInfo:
    spec, defaults, store = entry.spec, entry.spec.defaults, service.engine.store
    family = service.engine.plugins.families.get(spec.family)
    missing = store.missing(spec)
    installed_bytes = 0 if missing else store.files_of(spec).size_bytes()
    return ModelInfo(
        name=spec.name,
        family=spec.family,
        size_gb=_unshared_gib(spec, installed_bytes),
        is_loaded=entry.loaded,
        last_used=None,
        hf_repo=next((file.repo for file in spec.files if file.component in _UNSHARED_COMPONENTS and file.repo), ""),
        default_steps=defaults.steps or 0,
        default_guidance=defaults.guidance or 0,
        default_width=defaults.width or 0,
        default_height=defaults.height or 0,
        description=spec.description,
        downloaded=not missing,
        runnable=entry.runnable,
        capabilities=tuple(sorted(getattr(family, "capabilities", ()))),
        disk_usage_bytes=None if missing else installed_bytes,
        remaining_download_bytes=sum(file.size_bytes or 0 for file in missing),
        size_bytes=spec.size_bytes,
        licence=spec.licence,
        embedded=spec.embedded or None,
        part_of=spec.part_of,
        default_frames=defaults.frames,
        default_fps=defaults.fps,
        chain_frames=service.engine.chain_frames(spec),
        placement=service.engine.placement(spec.name),
        default_because=default_because,
    )


def _unshared_gib(spec: ModelSpec, installed_bytes: int) -> float:
    """Return the size of the unshared files, rounded up; if the catalog has no sizes, of the files on disk."""
    unshared = [file for file in spec.files if file.component in _UNSHARED_COMPONENTS] or list(spec.files)
    size_bytes = sum(file.size_bytes or 0 for file in unshared) or installed_bytes
    return math.ceil(size_bytes / 2**30 * 100) / 100


ROUTES = (
    Route(
        method="GET",
        path="/api/models",
        name="list_models",
        summary="List the models of the catalog",
        doc="Text encoders, LoRAs and other components of models are listed if `kind` is all.",
        handler=list_models,
        tag="models",
        parameters=(Query(name="kind", doc="`models` or `all`.", type=Literal["models", "all"], default="models"),),
        responses=(ResponseSpec(doc="The models.", content={JSON: tuple[ModelInfo, ...]}),),
        example="curl localhost:7680/api/models",
    ),
    Route(
        method="POST",
        path="/api/models/load",
        name="load_model",
        summary="Load a model into memory",
        doc="Unloads other models if the memory is not sufficient for both.",
        handler=load,
        tag="models",
        request=LoadRequest,
        responses=(ResponseSpec(doc="The model is loaded; the body is empty."),),
        errors=("UNKNOWN_MODEL", "MODEL_NOT_FOUND", "INFERENCE_ERROR", "INSUFFICIENT_MEMORY"),
        tier="generation",
        example=(
            "curl -X POST localhost:7680/api/models/load -H 'Content-Type: application/json' \\\n"
            """  -d '{"model": "flux-nano"}'"""
        ),
    ),
    Route(
        method="POST",
        path="/api/models/pull",
        name="pull_model",
        summary="Download the files of a model",
        doc=(
            "Responds when all files are downloaded, or streams `progress` events if Accept requests "
            "`text/event-stream`. Partial downloads are kept if the download fails or the client disconnects."
        ),
        handler=pull,
        tag="models",
        request=PullRequest,
        responses=(
            ResponseSpec(
                doc="The files are downloaded.",
                content={"text/plain": "the line `model 'NAME' pulled successfully`", EVENT_STREAM: EVENTS},
            ),
        ),
        errors=("UNKNOWN_MODEL", "CANCELLED", "DOWNLOAD_ERROR", "QUEUE_FULL"),
        tier="generation",
        example=(
            "curl -N localhost:7680/api/models/pull -H 'Accept: text/event-stream' \\\n"
            """  -H 'Content-Type: application/json' -d '{"model": "flux-schnell:q8"}'"""
        ),
    ),
    Route(
        method="DELETE",
        path="/api/models/unload",
        name="unload_models",
        summary="Unload models from memory",
        doc="Without a body, all models are unloaded.",
        handler=unload,
        tag="models",
        request=UnloadRequest,
        request_optional=True,
        responses=(
            ResponseSpec(doc="Done.", content={"text/plain": "the line `unloaded NAME, …`, or `no model loaded`"}),
        ),
        errors=("UNKNOWN_MODEL", "MODEL_NOT_FOUND"),
        tier="generation",
        example="curl -X DELETE localhost:7680/api/models/unload",
    ),
)
