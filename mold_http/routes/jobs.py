"""Jobs: submit a request, follow it and fetch its result later; and the queue of waiting jobs."""

from __future__ import annotations

import asyncio
import re
from math import inf
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import attrs
import falcon.asgi

from mold_core.engine import Job
from mold_core.errors import ValidationError
from mold_core.jobs.kinds import JOB_KINDS
from mold_core.wire.convert import from_json
from mold_core.wire.fields import wire_field
from mold_http.errors import ConflictError
from mold_http.guard.bodies import query_of, read_json
from mold_http.guard.proxies import site_of
from mold_http.jobs import JobSource, submit
from mold_http.responses import JSON, respond_json
from mold_http.results import RESULT_CONTENT, respond_result, result_frame
from mold_http.routes.generate import IMAGE_DATA, image_data_of
from mold_http.routes.queue_entries import QueueEntry, queue_entries
from mold_http.routes.route import EVENT_STREAM, EVENTS, Query, ResponseSpec, Route
from mold_http.service import Service
from mold_http.sse import send_events

__all__ = ["ROUTES", "JobAccepted", "JobInfo", "JobRequest", "MoveRequest", "QueueState"]

# The names in JOB_KINDS: str for type checkers, an enumeration in the OpenAPI document.
if TYPE_CHECKING:
    JobKindName: TypeAlias = str
else:
    JobKindName = Literal[tuple(JOB_KINDS)]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]

_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_MAX_LISTED = 1000
_MAX_ID_DIGITS = 15


@attrs.frozen(kw_only=True)
class JobRequest:
    """A job to queue: its kind, and the body for the route of that kind."""

    kind: JobKindName = wire_field("Kind of the job.")
    request: dict[str, Any] = wire_field("The request: the body for the route of this kind.")
    webhook_url: str | None = wire_field(
        "URL to which the finished job is posted as JSON until the response is 2xx, in rare cases twice. "
        "MOLD_WEBHOOK_HOSTS must allow the host.",
        default=None,
        not_blank=True,
        max_length=2000,
    )


@attrs.frozen(kw_only=True)
class JobAccepted:
    """An accepted job."""

    id: str = wire_field("Id of the job.")
    state: JobState = wire_field("State of the job.")
    position: int = wire_field("Position in the queue, from 1; 0 if it is not waiting.")


@attrs.frozen(kw_only=True)
class JobInfo:
    """A job without its request and result. Times are in milliseconds since 1970."""

    id: str = wire_field("Id of the job.")
    kind: JobKindName = wire_field("Kind of the job.")
    state: JobState = wire_field("State of the job.")
    position: int = wire_field("Position in the queue, from 1; 0 if it is not waiting.")
    model: str | None = wire_field("Full name of its model.", default=None)
    created_at: int | None = wire_field("Time when it was accepted.", default=None)
    started_at: int | None = wire_field("Time when it started.", default=None)
    finished_at: int | None = wire_field("Time when it finished.", default=None)
    warnings: tuple[str, ...] | None = wire_field(
        "Fields that were adjusted or ignored, one sentence each.", default=None
    )
    files: tuple[str, ...] | None = wire_field("Names of its results in the gallery.", default=None)
    error: str | None = wire_field("Error message, if it failed.", default=None)
    code: str | None = wire_field("Error code, if it failed.", default=None)


@attrs.frozen(kw_only=True)
class MoveRequest:
    """A waiting job and its new position."""

    id: str = wire_field("Id of the job.", not_blank=True, max_length=200)
    position: int = wire_field(
        "New position in the queue, from 1; larger than the queue means last.", minimum=1, maximum=1_000_000
    )


@attrs.frozen(kw_only=True)
class QueueState:
    """The state of the queue."""

    paused: bool = wire_field("Whether the queue is paused.")
    depth: int = wire_field("Number of waiting jobs.")
    capacity: int = wire_field("Maximum number of waiting jobs.")
    entries: tuple[QueueEntry, ...] = wire_field("Running jobs, then waiting jobs in their order.")


async def create(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Queue a job and respond with its id immediately."""
    body = await read_json(req, JobRequest)
    request, webhook_url = await asyncio.to_thread(_inner_request, body), body.webhook_url
    del body  # PERF: it has the text of all media
    if webhook_url is not None:
        service.webhooks.check(webhook_url)
    job = await submit(service, req, request, idempotency_key=_idempotency_key(req), webhook_url=webhook_url)
    resp.set_header("Location", f"{site_of(req).prefix}/api/jobs/{job.id}")
    respond_json(resp, JobAccepted(id=job.id, state=job.state, position=job.position), 202)


async def list_jobs(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the stored jobs, newest first."""
    query = query_of(req)
    state, kind = _word(query, "state", get_args(JobState)), _word(query, "kind", tuple(JOB_KINDS))
    jobs = await asyncio.to_thread(lambda: service.engine.jobs(state=state, kind=kind))
    respond_json(resp, [job.to_json() for job in reversed(jobs[-_MAX_LISTED:])])


async def get_job(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, id: str) -> None:
    """Respond with the state of a job."""
    respond_json(resp, (await _job(service, id)).to_json())


async def cancel(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, id: str) -> None:
    """Cancel a job, and respond with its state. A finished job does not change."""
    job = await _job(service, id)
    await asyncio.to_thread(job.cancel)
    respond_json(resp, job.to_json())


async def events(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, id: str) -> None:
    """Respond with the events of a job, from the first or from the one after Last-Event-ID; 204 after the last."""
    form = image_data_of(req)
    job = await _job(service, id)
    start = _start(req)
    if start > _last_number(job):
        resp.status = 204  # makes an EventSource stop reconnecting
        return
    prefix = site_of(req).prefix
    source = JobSource(
        service,
        job,
        lambda kind, result: result_frame(kind, result, form, prefix),
        start=start,
        numbered=True,
        owner=False,
    )
    send_events(req, resp, service.feeds, source)


async def result(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, id: str) -> None:
    """Respond with the result of a job as the route of its kind does; 409 if it is not finished."""
    form = image_data_of(req)
    job = await _job(service, id)
    if not job.finished:
        raise ConflictError(f"the job is {job.state}", hint=f"GET /api/jobs/{job.id}/events waits until it is finished")
    await respond_result(req, resp, JOB_KINDS[job.kind], await asyncio.to_thread(job.result), form)


async def pause(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Pause the queue: running jobs continue, and no more are started."""
    await asyncio.to_thread(service.engine.pause)
    await _respond_queue(service, resp)


async def resume(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Resume the queue."""
    await asyncio.to_thread(service.engine.resume)
    await _respond_queue(service, resp)


async def reorder(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Move a waiting job to another position."""
    request = await read_json(req, MoveRequest)
    position = await asyncio.to_thread(service.engine.move, request.id, request.position)
    job = await _job(service, request.id)
    if not position:
        raise ConflictError(f"the job is {job.state} and no longer waits")
    respond_json(resp, JobAccepted(id=job.id, state=job.state, position=position))


async def queue(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the state of the queue."""
    await _respond_queue(service, resp)


async def _respond_queue(service: Service, resp: falcon.asgi.Response) -> None:
    waiting = service.engine.queue
    respond_json(
        resp,
        QueueState(
            paused=waiting.paused,
            depth=len(waiting),
            capacity=waiting.capacity,
            entries=await asyncio.to_thread(queue_entries, service.engine),
        ),
    )


async def _job(service: Service, id: str) -> Job:
    return await asyncio.to_thread(service.engine.job, id[:200])


def _inner_request(body: JobRequest) -> Any:
    """Return the inner request. Paths in its errors start with ``request.``."""
    try:
        return from_json(JOB_KINDS[body.kind].request_class, body.request)
    except ValidationError as error:
        problems = tuple(f"request.{problem}" for problem in error.problems)
        field = f"request.{error.field}" if error.field else "request"
        raise ValidationError("; ".join(problems), field=field, problems=problems) from None


def _word(query: dict[str, Any], name: str, words: tuple[str, ...]) -> Any:
    value = query.get(name)
    if value is not None and value not in words:
        raise ValidationError(f"{name} must be one of {', '.join(words)}", field=name, value=value)
    return value


def _idempotency_key(req: falcon.asgi.Request) -> str | None:
    key = req.get_header("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise ValidationError("Idempotency-Key must be 1 to 200 visible ASCII characters", field="Idempotency-Key")
    return key


def _start(req: falcon.asgi.Request) -> int:
    """Return the number of the first event that the client has not received."""
    last = req.get_header("Last-Event-ID") or query_of(req).get("last_event_id")
    return int(last) + 1 if last and last.isascii() and last.isdigit() and len(last) <= _MAX_ID_DIGITS else 0


def _last_number(job: Job) -> float:
    """Return the number of the last event of a job's stream; infinity if the job is not finished."""
    if not job.finished:
        return inf
    ends_by_event = job.state == "done" and not JOB_KINDS[job.kind].ends_with_complete
    return job.event_count - 1 if ends_by_event else job.event_count


_ID = {"id": "Id of the job."}

ROUTES = (
    Route(
        method="POST",
        path="/api/jobs",
        name="create_job",
        summary="Queue work and fetch its result later",
        doc=(
            "Responds immediately. A second request with the same Idempotency-Key returns the job of the first. Jobs "
            "continue if the client disconnects."
        ),
        handler=create,
        tag="jobs",
        request=JobRequest,
        parameters=(
            Query(
                name="Idempotency-Key",
                doc="1 to 200 visible ASCII characters that identify this request.",
                place="header",
            ),
        ),
        responses=(
            ResponseSpec(
                status=202,
                doc="The job is accepted.",
                content={JSON: JobAccepted},
                headers={"Location": "Path of the job."},
            ),
        ),
        errors=(
            "UNKNOWN_MODEL",
            "MODEL_NOT_FOUND",
            "QUEUE_FULL",
            "PLUGIN_ERROR",
            "INFERENCE_ERROR",
            "INSUFFICIENT_STORAGE",
        ),
        tier="generation",
        example=(
            "curl -i -X POST localhost:7680/api/jobs -H 'Content-Type: application/json' \\\n"
            """  -d '{"kind": "generate", "request": {"prompt": "a red house"}}'"""
        ),
    ),
    Route(
        method="GET",
        path="/api/jobs",
        name="list_jobs",
        summary="List the stored jobs, newest first",
        handler=list_jobs,
        tag="jobs",
        parameters=(
            Query(name="state", doc="Only jobs in this state.", type=JobState),
            Query(name="kind", doc="Only jobs of this kind.", type=JobKindName),
        ),
        responses=(ResponseSpec(doc="The jobs.", content={JSON: tuple[JobInfo, ...]}),),
    ),
    Route(
        method="GET",
        path="/api/jobs/{id}",
        name="get_job",
        summary="State of a job",
        handler=get_job,
        tag="jobs",
        path_docs=_ID,
        responses=(ResponseSpec(doc="The job.", content={JSON: JobInfo}),),
        errors=("JOB_NOT_FOUND",),
    ),
    Route(
        method="DELETE",
        path="/api/jobs/{id}",
        name="cancel_job",
        summary="Cancel a job",
        doc="The job ends immediately; its computation stops at the next step. A finished job does not change.",
        handler=cancel,
        tag="jobs",
        path_docs=_ID,
        responses=(ResponseSpec(doc="The job.", content={JSON: JobInfo}),),
        errors=("JOB_NOT_FOUND",),
    ),
    Route(
        method="GET",
        path="/api/jobs/{id}/events",
        name="job_events",
        summary="Stream the events of a job",
        doc=(
            "Events are those of the streaming route of its kind, each with an `id`. A client that reconnects sends "
            "the last id as Last-Event-ID to receive the events after it."
        ),
        handler=events,
        tag="jobs",
        path_docs=_ID,
        parameters=(IMAGE_DATA, Query(name="Last-Event-ID", doc="Id of the last received event.", place="header")),
        responses=(
            ResponseSpec(doc="Events.", content={EVENT_STREAM: EVENTS}),
            ResponseSpec(status=204, doc="The client has received all events."),
        ),
        errors=("JOB_NOT_FOUND",),
        example="curl -N localhost:7680/api/jobs/ID/events -H 'Last-Event-ID: 7'",
    ),
    Route(
        method="GET",
        path="/api/jobs/{id}/result",
        name="job_result",
        summary="Result of a job",
        doc="The same as the response of the route of its kind: images as files, JSON if Accept requests it.",
        handler=result,
        tag="jobs",
        path_docs=_ID,
        parameters=(IMAGE_DATA,),
        responses=(ResponseSpec(doc="The result.", content=RESULT_CONTENT),),
        errors=(
            "JOB_NOT_FOUND",
            "CONFLICT",
            "CANCELLED",
            "INFERENCE_ERROR",
            "DOWNLOAD_ERROR",
            "CHAIN_FAILED",
            "INSUFFICIENT_MEMORY",
            "INSUFFICIENT_STORAGE",
            "MODEL_NOT_FOUND",
        ),
    ),
    Route(
        method="GET",
        path="/api/queue",
        name="queue",
        summary="State of the queue",
        handler=queue,
        tag="jobs",
        responses=(ResponseSpec(doc="The queue.", content={JSON: QueueState}),),
    ),
    Route(
        method="POST",
        path="/api/queue/pause",
        name="pause_queue",
        summary="Pause the queue",
        doc=(
            "Running jobs and downloads continue, and new jobs are accepted but not started. The queue stays paused "
            "after a restart."
        ),
        handler=pause,
        tag="jobs",
        responses=(ResponseSpec(doc="The queue is paused.", content={JSON: QueueState}),),
    ),
    Route(
        method="POST",
        path="/api/queue/resume",
        name="resume_queue",
        summary="Resume the queue",
        handler=resume,
        tag="jobs",
        responses=(ResponseSpec(doc="The queue is running.", content={JSON: QueueState}),),
    ),
    Route(
        method="POST",
        path="/api/queue/reorder",
        name="reorder_queue",
        summary="Move a waiting job to another position",
        handler=reorder,
        tag="jobs",
        request=MoveRequest,
        responses=(ResponseSpec(doc="The new position of the job.", content={JSON: JobAccepted}),),
        errors=("JOB_NOT_FOUND", "CONFLICT"),
    ),
)
