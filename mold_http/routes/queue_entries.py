"""Routes to move and cancel single jobs of the queue, which GET /api/queue lists."""

from __future__ import annotations

import asyncio

import attrs
import falcon.asgi

from mold_core.engine import Engine, Job
from mold_core.wire.fields import wire_field
from mold_http.errors import ConflictError
from mold_http.guard.bodies import read_json
from mold_http.responses import JSON, respond_json
from mold_http.routes.route import ResponseSpec, Route
from mold_http.service import Service

__all__ = ["ROUTES", "QueueEntry", "queue_entries"]

_MAX_PROMPT = 500


@attrs.frozen(kw_only=True)
class QueueEntry:
    """A waiting or running job."""

    id: str = wire_field("Id of the job.")
    position: int = wire_field("Position in the queue, from 1; 0 if it runs.")
    kind: str = wire_field("Kind of the job.")
    model: str | None = wire_field("Full name of its model.")
    prompt: str | None = wire_field("Prompt, at most its first 500 characters.")
    state: str = wire_field("`queued` or `running`.", choices=("queued", "running"))
    created: int = wire_field("Time when it was accepted, in milliseconds since 1970.")


@attrs.frozen(kw_only=True)
class QueueMove:
    """The new position of a job."""

    position: int = wire_field(
        "New position in the queue, from 1; larger than the queue means last.", minimum=1, maximum=1_000_000
    )


def queue_entries(engine: Engine) -> tuple[QueueEntry, ...]:
    """Return running jobs, then waiting jobs in their order."""
    entries = [_entry(job) for job in engine.recent_jobs()]
    return tuple(sorted((entry for entry in entries if entry is not None), key=lambda entry: entry.position))


def _entry(job: Job) -> QueueEntry | None:
    """Return the entry of a job; None if it is already finished."""
    state = job.state
    if state not in ("running", "queued"):
        return None
    stages = getattr(job.request, "stages", ())
    prompt = getattr(job.request, "prompt", None) or (stages[0].prompt if stages else None)
    return QueueEntry(
        id=job.id,
        position=job.position,
        kind=job.kind,
        model=job.model,
        prompt=None if prompt is None else prompt[:_MAX_PROMPT],
        state=state,
        created=int(job.created_at * 1000),
    )


async def move(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, id: str) -> None:
    """Move a waiting job and respond with it."""
    body = await read_json(req, QueueMove)
    job = await asyncio.to_thread(service.engine.job, id[:200])
    await asyncio.to_thread(service.engine.move, job.id, body.position)
    entry = _entry(job)
    if entry is None or entry.state != "queued":
        raise ConflictError(f"the job is {job.state} and no longer waiting")
    respond_json(resp, entry)


async def remove(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, id: str) -> None:
    """Cancel a waiting or running job."""
    job = await asyncio.to_thread(service.engine.job, id[:200])
    if not await asyncio.to_thread(job.cancel):
        raise ConflictError(f"the job is {job.state} already")
    resp.status = 204


_ID = {"id": "Id of the job."}

ROUTES = (
    Route(
        method="PATCH",
        path="/api/queue/{id}",
        name="move_entry",
        summary="Move a waiting job to another position",
        handler=move,
        tag="jobs",
        request=QueueMove,
        path_docs=_ID,
        responses=(ResponseSpec(doc="The job.", content={JSON: QueueEntry}),),
        errors=("JOB_NOT_FOUND", "CONFLICT"),
    ),
    Route(
        method="DELETE",
        path="/api/queue/{id}",
        name="remove_entry",
        summary="Cancel a waiting or running job",
        handler=remove,
        tag="jobs",
        path_docs=_ID,
        responses=(ResponseSpec(status=204, doc="It is cancelled."),),
        errors=("JOB_NOT_FOUND", "CONFLICT"),
    ),
)
