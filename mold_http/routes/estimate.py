"""POST /api/generate/estimate: estimated time and memory of a request, from finished jobs of this server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from statistics import quantiles

import attrs
import falcon.asgi

from mold_core.catalog import refuse_lora_paths
from mold_core.engine import Engine
from mold_core.jobs.job import Prepared
from mold_core.wire import GenerateRequest
from mold_core.wire.fields import wire_field
from mold_http.guard.bodies import read_json
from mold_http.responses import JSON, respond_json
from mold_http.routes.route import ResponseSpec, Route
from mold_http.service import Service

__all__ = ["ROUTES", "Estimate"]

# Only the newest jobs count, because the machine may have changed since older ones.
_MAX_JOBS = 50


@attrs.frozen(kw_only=True)
class Estimate:
    """An estimate of a request. The seconds do not include waiting for other jobs."""

    model: str = wire_field("Full name of the model.")
    is_loaded: bool = wire_field("Whether it is in memory.")
    load_bytes: int = wire_field("Size of its files in bytes.")
    seconds: float | None = wire_field("Median time in seconds; null if no finished job of the model is known.")
    seconds_low: float | None = wire_field("First quartile of the time in seconds.")
    seconds_high: float | None = wire_field("Third quartile of the time in seconds.")
    jobs: int = wire_field("Number of finished jobs behind the estimate.")
    queue_depth: int = wire_field("Number of waiting jobs.")
    warnings: tuple[str, ...] = wire_field("Fields that are adjusted or ignored, one sentence each.")


async def estimate(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with an estimate."""
    request = await read_json(req, GenerateRequest)
    refuse_lora_paths(request)
    prepared = await service.media.run(req, service.engine.prepare, request)
    respond_json(resp, await asyncio.to_thread(_estimate, service.engine, prepared))


def _estimate(engine: Engine, prepared: Prepared) -> Estimate:
    assert prepared.spec is not None
    name = prepared.spec.name
    rates = list(_rates(engine, name))
    quarters = quantiles(rates, n=4, method="inclusive") if len(rates) > 1 else rates * 3
    work = _work(prepared.request)
    return Estimate(
        model=name,
        is_loaded=name in engine.loaded(),
        load_bytes=prepared.load_bytes,
        seconds=_seconds(quarters, 1, work),
        seconds_low=_seconds(quarters, 0, work),
        seconds_high=_seconds(quarters, 2, work),
        jobs=len(rates),
        queue_depth=len(engine.queue),
        warnings=prepared.warnings,
    )


def _seconds(quarters: Sequence[float], index: int, work: float) -> float | None:
    return round(quarters[index] * work, 2) if quarters else None


def _rates(engine: Engine, model: str) -> Iterator[float]:
    """Yield seconds per pixel and step of the newest jobs of a model."""
    done = [job for job in engine.jobs(state="done", kind="generate") if job.model == model]
    for job in done[-_MAX_JOBS:]:
        if job.started_at is not None and job.finished_at is not None:
            yield (job.finished_at - job.started_at) / _work(job.request)


def _work(request: GenerateRequest) -> float:
    """Return pixels times steps of a completed request."""
    pixels = (request.width or 1) * (request.height or 1) * (request.frames or 1) * request.batch_size
    return float(pixels * (request.steps or 1))


ROUTES = (
    Route(
        method="POST",
        path="/api/generate/estimate",
        name="estimate",
        summary="Estimate the time of a request",
        doc=(
            "The body is that of /api/generate. The time is estimated from stored finished jobs of the same "
            "model, in proportion to pixels and steps."
        ),
        handler=estimate,
        tag="generate",
        request=GenerateRequest,
        responses=(ResponseSpec(doc="The estimate.", content={JSON: Estimate}),),
        errors=("UNKNOWN_MODEL", "MODEL_NOT_FOUND", "PLUGIN_ERROR"),
    ),
)
