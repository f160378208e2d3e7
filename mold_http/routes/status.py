"""The state of the server: /health, /api/status, /api/shutdown."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from hashlib import sha256
from time import time
from typing import Any

import attrs
import falcon.asgi

from mold_core.engine import DeviceStatus, Job
from mold_core.version import VERSION
from mold_core.wire.fields import wire_field
from mold_http.errors import ForbiddenError
from mold_http.guard.hosts import is_loopback
from mold_http.responses import respond_json
from mold_http.routes.route import ResponseSpec, Route
from mold_http.service import Service

__all__ = ["ROUTES", "CurrentGeneration", "GpuInfo", "GpuStatus", "ServerStatus", "refuse_strangers"]


@attrs.frozen(kw_only=True)
class GpuInfo:
    """The GPU that runs models."""

    name: str = wire_field("Name of the GPU.")
    vram_total_mb: int = wire_field("Total memory in MiB.")
    vram_used_mb: int = wire_field("Memory used by all processes, in MiB.")


@attrs.frozen(kw_only=True)
class GpuStatus:
    """One GPU of several."""

    ordinal: int = wire_field("Ordinal of the GPU, from 0.")
    name: str = wire_field("Name of the GPU.")
    vram_total_bytes: int = wire_field("Total memory in bytes.")
    vram_used_bytes: int = wire_field("Memory used by all processes, in bytes.")
    loaded_model: str | None = wire_field("The last used model that is still loaded.", default=None)
    state: str = wire_field("State of the GPU.", choices=("idle", "generating", "loading", "degraded"))


@attrs.frozen(kw_only=True)
class CurrentGeneration:
    """The job that has been running longest."""

    model: str = wire_field("Full name of its model.")
    prompt_sha256: str = wire_field(
        "SHA-256 of its prompt, or of the prompts of a chain, one per line, in hexadecimal. The prompts are private."
    )
    started_at_unix_ms: int = wire_field("Start time, in milliseconds since 1970.")
    elapsed_ms: int = wire_field("Time since it started, in milliseconds.")


@attrs.frozen(kw_only=True)
class ServerStatus:
    """State of the server."""

    version: str = wire_field("Version of mold.")
    git_sha: str | None = wire_field("Git revision, if known.", default=None)
    build_date: str | None = wire_field("Build date, or date of the revision in a checkout, if known.", default=None)
    models_loaded: tuple[str, ...] = wire_field("Models in memory.")
    busy: bool = wire_field("Whether a job is running.")
    current_generation: CurrentGeneration | None = wire_field("The running job.", default=None)
    gpu_info: GpuInfo | None = wire_field("The first GPU; null without one.")
    uptime_secs: int = wire_field("Seconds since the server started.")
    hostname: str | None = wire_field("Name of the machine.", default=None)
    memory_status: str | None = wire_field("Free memory, as text.", default=None)
    gpus: tuple[GpuStatus, ...] | None = wire_field("All GPUs, if there are several.", default=None)
    queue_depth: int = wire_field("Number of waiting jobs.")
    queue_capacity: int = wire_field("Maximum number of waiting jobs.")
    queue_paused: bool = wire_field("Whether the queue is paused.", default=False)
    gallery_error: str | None = wire_field(
        "Reason why the last result could not be saved in the gallery; null if it was saved.", default=None
    )


async def health(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond while the server is alive."""
    resp.content_type = "text/plain; charset=utf-8"


async def status(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with ServerStatus."""
    now = service.engine.status()
    gpus = [device for device in now.devices if device.device != "cpu"]
    loaded = {name for device in now.devices for name in device.models}
    respond_json(
        resp,
        ServerStatus(
            version=VERSION,
            git_sha=service.build.git_sha,
            build_date=service.build.build_date,
            models_loaded=tuple(sorted(loaded)),
            busy=bool(now.running),
            current_generation=_current(now.running),
            gpu_info=_gpu_info(gpus[0]) if gpus else None,
            uptime_secs=int(service.uptime_s),
            hostname=_HOSTNAME,
            memory_status=_memory_words(gpus[0]) if gpus else None,
            gpus=tuple(map(_gpu_status, range(len(gpus)), gpus)) if len(gpus) > 1 else None,
            queue_depth=now.queue_depth,
            queue_capacity=now.queue_capacity,
            queue_paused=now.paused,
            gallery_error=now.gallery_error,
        ),
    )


def _current(running: Sequence[Job]) -> CurrentGeneration | None:
    job = next((job for job in running if job.model is not None and job.started_at is not None), None)
    if job is None or job.model is None or job.started_at is None:
        return None
    prompt = getattr(job.request, "prompt", None) or "\n".join(
        stage.prompt for stage in getattr(job.request, "stages", ())
    )
    return CurrentGeneration(
        model=job.model,
        prompt_sha256=sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest(),
        started_at_unix_ms=int(job.started_at * 1000),
        elapsed_ms=max(int((time() - job.started_at) * 1000), 0),
    )


def _gpu_info(device: DeviceStatus) -> GpuInfo:
    return GpuInfo(
        name=device.name,
        vram_total_mb=device.memory_total_bytes // 2**20,
        vram_used_mb=device.memory_used_bytes // 2**20,
    )


def _gpu_status(index: int, device: DeviceStatus) -> GpuStatus:
    ordinal = device.device.partition(":")[2]
    return GpuStatus(
        ordinal=int(ordinal) if ordinal.isdigit() else index,
        name=device.name,
        vram_total_bytes=device.memory_total_bytes,
        vram_used_bytes=device.memory_used_bytes,
        loaded_model=device.models[-1] if device.models else None,
        state=device.state,
    )


def _memory_words(device: DeviceStatus) -> str:
    return f"VRAM: {(device.memory_total_bytes - device.memory_used_bytes) / 1e9:.1f} GB free"


async def shutdown(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Stop the server as SIGTERM does."""
    refuse_strangers(service, req, "shutdown requires API key auth or localhost access")
    service.stop()
    resp.content_type = "text/plain; charset=utf-8"
    resp.text = "shutdown initiated\n"


def refuse_strangers(service: Service, req: falcon.asgi.Request, message: str, **hint: Any) -> None:
    """Raise ForbiddenError unless keys are required (then the request has one) or the client is on this machine."""
    if not service.keys.required and not is_loopback(req.remote_addr):
        raise ForbiddenError(message, **hint)


_HOSTNAME = socket.gethostname()

ROUTES = (
    Route(
        method="GET",
        path="/health",
        name="health",
        summary="Health check",
        handler=health,
        tag="server",
        responses=(ResponseSpec(doc="The server is alive; the body is empty."),),
        public=True,
        tier=None,
        example="curl -i localhost:7680/health",
    ),
    Route(
        method="GET",
        path="/api/status",
        name="status",
        summary="State of the server",
        handler=status,
        tag="server",
        responses=(ResponseSpec(doc="Version, models in memory, queue.", content={"application/json": ServerStatus}),),
        example="curl localhost:7680/api/status",
    ),
    Route(
        method="POST",
        path="/api/shutdown",
        name="shutdown",
        summary="Stop the server",
        doc=(
            "The same as SIGTERM: no new work is accepted, running work may finish within the grace time, and streams "
            "are closed. Requires an API key or a client on this machine."
        ),
        handler=shutdown,
        tag="server",
        responses=(
            ResponseSpec(doc="The server is stopping.", content={"text/plain": "the line `shutdown initiated`"}),
        ),
        example="curl -X POST localhost:7680/api/shutdown",
    ),
)
