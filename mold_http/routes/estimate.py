"""POST /api/generate/estimate: what a request would take, from the jobs that this server has finished."""

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
from mold_http.responses import JSON, answer_json
from mold_http.routes.route import ResponseSpec, Route
from mold_http.service import Service

__all__ = ["ROUTES", "Estimate"]

# Newest jobs that count: the machine may have changed since older ones.
_MAX_JOBS = 50


@attrs.frozen(kw_only=True)
class Estimate:
    """What a request would take. Seconds do not include the wait for other jobs."""

    model: str = wire_field("Full name of the model.")
    is_loaded: bool = wire_field("Whether it is in memory.")
    load_bytes: int = wire_field("Size of the files that it is loaded from.")
    seconds: float | None = wire_field("Median; null if no job of the model is known.")
    seconds_low: float | None = wire_field("A quarter of the jobs took less.")
    seconds_high: float | None = wire_field("A quarter of the jobs took more.")
    jobs: int = wire_field("Number of finished jobs that it is learned from.")
    queue_depth: int = wire_field("Number of jobs that wait.")
    warnings: tuple[str, ...] = wire_field("What is adjusted or ignored, in words.")


async def estimate(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with an estimate."""
    request = await read_json(req, GenerateRequest)
    refuse_lora_paths(request)
    prepared = await service.media.run(req, service.engine.prepare, request)
    answer_json(resp, await asyncio.to_thread(_estimate, service.engine, prepared))


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
    """Yield the seconds that the newest jobs of a model took for each pixel and step."""
    done = [job for job in engine.jobs(state="done", kind="generate") if job.model == model]
    for job in done[-_MAX_JOBS:]:
        if job.started_at is not None and job.finished_at is not None:
            yield (job.finished_at - job.started_at) / _work(job.request)


def _work(request: GenerateRequest) -> float:
    """Return the pixels of all steps of a complete request."""
    pixels = (request.width or 1) * (request.height or 1) * (request.frames or 1) * request.batch_size
    return float(pixels * (request.steps or 1))


ROUTES = (
    Route(
        method="POST",
        path="/api/generate/estimate",
        name="estimate",
        summary="Estimate what a request would take",
        doc=(
            "The body is that of /api/generate. Time is learned from the finished jobs of the same model that the "
            "server still knows, and grows with pixels and steps; low and high are quartiles."
        ),
        handler=estimate,
        tag="generate",
        request=GenerateRequest,
        responses=(ResponseSpec(doc="The estimate.", content={JSON: Estimate}),),
        errors=("UNKNOWN_MODEL", "MODEL_NOT_FOUND", "PLUGIN_ERROR"),
    ),
)
