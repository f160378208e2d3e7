"""The image routes of Ollama, on a separate port: `mold serve --ollama-port 11434`."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import attrs
import falcon.asgi

from mold_core.catalog import ModelSpec
from mold_core.engine import Engine, Job
from mold_core.errors import MoldError
from mold_core.jobs.kinds import JobKind
from mold_core.version import VERSION
from mold_core.wire import DenoiseStep, GenerateRequest, GenerateResponse, ProgressEvent
from mold_core.wire.fields import wire_field
from mold_core.wire.generate import MAX_PROMPT_BYTES, MAX_SEED
from mold_http.guard.bodies import read_json
from mold_http.jobs import JobSource, result_of, submit
from mold_http.openai.names import chosen_model
from mold_http.responses import JSON, dumps, json_of, respond_json
from mold_http.routes.route import ResponseSpec, Route
from mold_http.service import Service
from mold_http.sse import send_events

__all__ = ["ROUTES"]

_LINES = "application/x-ndjson"


@attrs.frozen(kw_only=True)
class OllamaOptions:
    """Options of a generate request."""

    seed: int | None = wire_field("Seed.", default=None, minimum=0, maximum=MAX_SEED)


@attrs.frozen(kw_only=True)
class OllamaGenerate:
    """Body of /api/generate."""

    model: str = wire_field("Model name.", not_blank=True, max_length=200)
    prompt: str = wire_field("Description of the image.", default="", max_length=MAX_PROMPT_BYTES)
    width: int | None = wire_field("Width in pixels.", default=None, minimum=0, maximum=16_384)
    height: int | None = wire_field("Height in pixels.", default=None, minimum=0, maximum=16_384)
    steps: int | None = wire_field("Denoising steps.", default=None, minimum=0, maximum=100)
    stream: bool | None = wire_field("Whether to send progress; default: true.", default=None)
    options: OllamaOptions | None = wire_field("Options.", default=None)


@attrs.frozen(kw_only=True)
class OllamaShow:
    """Body of /api/show."""

    model: str | None = wire_field("Model name.", default=None, max_length=200)
    name: str | None = wire_field("Model name in requests of older clients.", default=None, max_length=200)


async def root(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the text by which clients detect Ollama."""
    resp.content_type = "text/plain; charset=utf-8"
    resp.text = "Ollama is running"


async def version(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the version of mold."""
    respond_json(resp, {"version": VERSION})


async def tags(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the installed models that generate images."""
    respond_json(resp, {"models": await asyncio.to_thread(_models, service.engine)})


async def show(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the details of a model."""
    body = await read_json(req, OllamaShow, any_type=True)
    spec = await asyncio.to_thread(_model, service.engine, body.model or body.name or "")
    about = {"modelfile": "", "parameters": "", "template": "", "details": _details(spec), "model_info": {}}
    respond_json(resp, {**about, "capabilities": ["image"]})


async def generate(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with JSON lines: the steps, then the image."""
    body = await read_json(req, OllamaGenerate, any_type=True)
    spec = await asyncio.to_thread(_model, service.engine, body.model)
    request = GenerateRequest(
        prompt=body.prompt,
        model=spec.name,
        width=body.width or None,
        height=body.height or None,
        steps=body.steps or None,
        seed=body.options.seed if body.options is not None else None,
        output_format="png",
    )
    job = await submit(service, req, request, durable=False)
    if body.stream is False:
        respond_json(resp, await asyncio.to_thread(_image, spec.name, await result_of(req, job)))
        return
    send_events(req, resp, service.feeds, _Lines(service, job, spec.name), patient=True)
    resp.content_type = _LINES


class _Lines(JobSource):
    """The events of a job as JSON lines."""

    def __init__(self, service: Service, job: Job, model: str) -> None:
        super().__init__(service, job, self._completed)
        self._model = model
        self.ping = _line({"model": model, "created_at": _now(), "response": "", "done": False})

    def frame_of(self, event: ProgressEvent) -> bytes:
        """Return the line of a step; empty for other events."""
        if not isinstance(event, DenoiseStep):
            return b""
        steps = {"completed": event.step, "total": event.total}
        return _line({"model": self._model, "created_at": _now(), "response": "", "done": False, **steps})

    def error_frame(self, error: MoldError, number: int | None) -> bytes:
        """Return the line of an error."""
        return _line({"error": error.public_text})

    def _completed(self, kind: JobKind, result: GenerateResponse) -> bytes:
        return _line(_image(self._model, result))


def _image(model: str, result: GenerateResponse) -> dict[str, Any]:
    return {
        "model": model,
        "created_at": _now(),
        "response": "",
        "image": json_of(result.images[0].data),
        "done": True,
        "done_reason": "stop",
        "total_duration": result.generation_time_ms * 1_000_000,
    }


def _line(value: dict[str, Any]) -> bytes:
    return dumps(value) + b"\n"


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat().replace("+00:00", "Z")


def _model(engine: Engine, name: str) -> ModelSpec:
    """Return a model that generates images; Ollama's tag `latest` counts as no tag."""
    return chosen_model(engine, name.removesuffix(":latest"), "images")


def _models(engine: Engine) -> list[dict[str, Any]]:
    usable = (entry.spec for entry in engine.models() if entry.downloaded and entry.runnable)
    return [
        {
            "name": spec.name,
            "model": spec.name,
            "modified_at": "1970-01-01T00:00:00Z",
            "size": spec.size_bytes or 0,
            "digest": "",
            "details": _details(spec),
            "capabilities": ["image"],
        }
        for spec in usable
        if "text-to-image" in engine.capabilities(spec)
    ]


def _details(spec: ModelSpec) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "mold",
        "family": spec.family,
        "families": [spec.family],
        "parameter_size": "",
        "quantization_level": spec.tag.upper(),
    }


_OBJECT = {"type": "object"}
_ERRORS = ("UNKNOWN_MODEL", "MODEL_NOT_FOUND", "CANCELLED", "INFERENCE_ERROR", "QUEUE_FULL", "INSUFFICIENT_MEMORY")


def _route(method: Any, path: str, name: str, handler: Any, **options: Any) -> Route:
    spec = ResponseSpec(doc="The same form as Ollama's response.", content={JSON: _OBJECT})
    shared: dict[str, Any] = {"summary": name, "tag": "ollama", "scheme": "bearer", "responses": (spec,)}
    return Route(method=method, path=path, name=f"ollama_{name}", handler=handler, **shared, **options)


ROUTES = (
    _route("GET", "/", "root", root),
    _route("GET", "/api/version", "version", version),
    _route("GET", "/api/tags", "tags", tags),
    _route("POST", "/api/show", "show", show, request=OllamaShow, errors=_ERRORS[:2]),
    _route("POST", "/api/generate", "generate", generate, request=OllamaGenerate, errors=_ERRORS, tier="generation"),
)
