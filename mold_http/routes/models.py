"""The models: what there is, loading and unloading, and pulling."""

from __future__ import annotations

import asyncio

import attrs
import falcon.asgi

from mold_core.catalog import ModelSpec
from mold_core.engine import ModelEntry
from mold_core.errors import ModelNotFoundError, MoldError
from mold_core.wire import DevicePlacement, PullRequest
from mold_core.wire.fields import wire_field
from mold_http.accept import wants_events
from mold_http.guard.bodies import read_json
from mold_http.jobs import JobSource, result_of, submit
from mold_http.responses import JSON, answer_json
from mold_http.results import answer_result, result_frame
from mold_http.routes.route import EVENT_STREAM, EVENTS, Answer, Route
from mold_http.service import Service
from mold_http.sse import send_events

__all__ = ["ROUTES", "LoadRequest", "ModelInfo", "UnloadRequest"]

# What counts for the size of a model: files that belong to it alone.
_OWN_COMPONENTS = frozenset({"transformer", "distilled_lora", "upscaler", "llm"})


@attrs.frozen(kw_only=True)
class ModelInfo:
    """A model of the catalog."""

    name: str = wire_field("Full name, base:tag.")
    family: str = wire_field("Family that runs it.")
    size_gb: float = wire_field("Size of its own files in GiB.")
    is_loaded: bool = wire_field("Whether it is in memory.")
    last_used: int | None = wire_field("Not kept; null.")
    hf_repo: str = wire_field("Repository of its weights; empty where there is none.")
    default_steps: int | None = wire_field("Steps where a request names none.")
    default_guidance: float | None = wire_field("Guidance where a request names none.")
    default_width: int | None = wire_field("Width where a request names none.")
    default_height: int | None = wire_field("Height where a request names none.")
    description: str = wire_field("One line for people.")
    downloaded: bool = wire_field("Whether all its files are here.")
    runnable: bool = wire_field("Whether a plugin that can run it is loaded.")
    capabilities: tuple[str, ...] = wire_field("What its family can do.")
    disk_usage_bytes: int | None = wire_field("Size of its files here.", default=None)
    remaining_download_bytes: int | None = wire_field("What a pull would fetch.", default=None)
    size_bytes: int | None = wire_field("Size of all its files, those it shares among them.", default=None)
    licence: str | None = wire_field("Licence of its weights.", default=None)
    embedded: bool | None = wire_field("True where its files come with a plugin.", default=None)
    part_of: str | None = wire_field("Family whose models it is a part of, where it is none by itself.", default=None)
    default_frames: int | None = wire_field("Frames of a video where a request names none.", default=None)
    default_fps: int | None = wire_field("Frames per second where a request names none.", default=None)
    chain_frames: int | None = wire_field("Frames of a clip of a chain, where it makes chains.", default=None)
    placement: DevicePlacement | None = wire_field("Where its parts are to be, where that was set.", default=None)
    default_because: str | None = wire_field("Why requests without a model get this one, where they do.", default=None)


@attrs.frozen(kw_only=True)
class LoadRequest:
    """A model to bring into memory."""

    model: str = wire_field("Model name, with or without its tag.", not_blank=True, max_length=200)
    gpu: int | None = wire_field("Number of the GPU; default: mold's choice.", default=None, minimum=0, maximum=1023)


@attrs.frozen(kw_only=True)
class UnloadRequest:
    """What to drop from memory: one model, all of a GPU, or everything."""

    model: str | None = wire_field("Model; default: all.", default=None, not_blank=True, max_length=200)
    gpu: int | None = wire_field("Number of the GPU; default: all.", default=None, minimum=0, maximum=1023)


async def list_models(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Answer with every model of the catalog."""
    answer_json(resp, await asyncio.to_thread(_models, service))


async def load(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Bring a model into memory, waiting until it is there."""
    request = await read_json(req, LoadRequest)
    await asyncio.to_thread(service.engine.load, request.model, _device(service, request.gpu))


async def unload(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Drop models, and say which."""
    request = await read_json(req, UnloadRequest, optional=True)
    dropped = await asyncio.to_thread(service.engine.unload, request.model, _device(service, request.gpu))
    several = len(service.engine.devices()) > 1
    names = [f"{device.replace('cuda:', 'gpu')}:{name}" if several else name for device, name in dropped]
    resp.content_type = "text/plain; charset=utf-8"
    resp.text = f"unloaded {', '.join(names)}\n" if names else "no model loaded\n"


async def pull(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Fetch a model's files: a line of text at the end, or the progress as events where Accept asks for them."""
    request = await read_json(req, PullRequest)
    job = await submit(service, req, request)
    if wants_events(req, instead_of="text/plain"):
        source = JobSource(service, job, result_frame, owner=False)
        send_events(req, resp, service.feeds, source, patient=True)
        return
    await answer_result(req, resp, await result_of(req, job, owner=False), "none")


def _device(service: Service, gpu: int | None) -> str | None:
    """Return the device of a GPU's number. Raises ModelNotFoundError when it is not here."""
    if gpu is None:
        return None
    service.engine.start()
    devices = [device.device for device in service.engine.devices()]
    if f"cuda:{gpu}" in devices:
        return f"cuda:{gpu}"
    if gpu == 0 and "cuda" in devices:
        return "cuda"
    raise ModelNotFoundError(
        f"there is no GPU {gpu} here", field="gpu", value=gpu, hint=f"there is {', '.join(devices)}"
    )


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
    return ModelInfo(
        name=spec.name,
        family=spec.family,
        size_gb=_own_gib(spec),
        is_loaded=entry.loaded,
        last_used=None,
        hf_repo=next((file.repo for file in spec.files if file.component in _OWN_COMPONENTS and file.repo), ""),
        default_steps=defaults.steps,
        default_guidance=defaults.guidance,
        default_width=defaults.width,
        default_height=defaults.height,
        description=spec.description,
        downloaded=not missing,
        runnable=entry.runnable,
        capabilities=tuple(sorted(getattr(family, "capabilities", ()))),
        disk_usage_bytes=None if missing else store.files_of(spec).size_bytes(),
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


def _own_gib(spec: ModelSpec) -> float:
    own = [file for file in spec.files if file.component in _OWN_COMPONENTS] or list(spec.files)
    return round(sum(file.size_bytes or 0 for file in own) / 2**30, 2)


ROUTES = (
    Route(
        method="GET",
        path="/api/models",
        name="list_models",
        summary="Every model of the catalog",
        handler=list_models,
        tag="models",
        answers=(Answer(doc="The models.", content={JSON: tuple[ModelInfo, ...]}),),
        example="curl localhost:7680/api/models",
    ),
    Route(
        method="POST",
        path="/api/models/load",
        name="load_model",
        summary="Bring a model into memory",
        doc="Others are dropped where memory does not hold both.",
        handler=load,
        tag="models",
        request=LoadRequest,
        answers=(Answer(doc="It is in memory; the body is empty."),),
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
        summary="Fetch the files of a model",
        doc=(
            "Answers when all are here, or with `progress` events on the way where Accept asks for "
            "`text/event-stream`. What has come is kept when a pull fails or the client leaves."
        ),
        handler=pull,
        tag="models",
        request=PullRequest,
        answers=(
            Answer(
                doc="The files are here.",
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
        summary="Drop models from memory",
        doc="Without a body, all of them.",
        handler=unload,
        tag="models",
        request=UnloadRequest,
        request_optional=True,
        answers=(Answer(doc="Done.", content={"text/plain": "the line `unloaded NAME, …`, or `no model loaded`"}),),
        errors=("UNKNOWN_MODEL", "MODEL_NOT_FOUND"),
        tier="generation",
        example="curl -X DELETE localhost:7680/api/models/unload",
    ),
)
