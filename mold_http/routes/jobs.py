"""Jobs: work that is asked for now and fetched later, and the queue they wait in."""

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
from mold_http.responses import JSON, answer_json
from mold_http.results import RESULT_CONTENT, answer_result, result_frame
from mold_http.routes.generate import IMAGE_DATA, image_data_of
from mold_http.routes.queue_entries import QueueEntry, queue_entries
from mold_http.routes.route import EVENT_STREAM, EVENTS, Query, ResponseSpec, Route
from mold_http.service import Service
from mold_http.sse import send_events

__all__ = ["ROUTES", "JobAccepted", "JobInfo", "JobRequest", "MoveRequest", "QueueState"]

# The names in the table: text for a type checker, choices in the OpenAPI document.
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
    """Work to queue: its kind, and the body that the kind's own route would get."""

    kind: JobKindName = wire_field("What is asked for.")
    request: dict[str, Any] = wire_field("The request: what the route of this kind reads.")
    webhook_url: str | None = wire_field(
        "Where the job is posted as JSON when it has ended, until that is answered with 2xx; perhaps twice. The host "
        "must be allowed by MOLD_WEBHOOK_HOSTS.",
        default=None,
        not_blank=True,
        max_length=2000,
    )


@attrs.frozen(kw_only=True)
class JobAccepted:
    """A job that was accepted."""

    id: str = wire_field("Its id.")
    state: JobState = wire_field("Where it is in its life.")
    position: int = wire_field("Place in the queue, from 1; 0 when it no longer waits.")


@attrs.frozen(kw_only=True)
class JobInfo:
    """What there is to say of a job, without its request and result. Times are in milliseconds since 1970."""

    id: str = wire_field("Its id.")
    kind: JobKindName = wire_field("What was asked for.")
    state: JobState = wire_field("Where it is in its life.")
    position: int = wire_field("Place in the queue, from 1; 0 when it no longer waits.")
    model: str | None = wire_field("Its model.", default=None)
    created_at: int | None = wire_field("When it was accepted.", default=None)
    started_at: int | None = wire_field("When it began.", default=None)
    finished_at: int | None = wire_field("When it ended.", default=None)
    warnings: tuple[str, ...] | None = wire_field("What was adjusted or ignored, in words.", default=None)
    files: tuple[str, ...] | None = wire_field("Names of its results in the gallery.", default=None)
    error: str | None = wire_field("Why it failed.", default=None)
    code: str | None = wire_field("The code of that error.", default=None)


@attrs.frozen(kw_only=True)
class MoveRequest:
    """A waiting job and where it shall stand."""

    id: str = wire_field("Id of the job.", not_blank=True, max_length=200)
    position: int = wire_field("Place in the queue, from 1; beyond the end means last.", minimum=1, maximum=1_000_000)


@attrs.frozen(kw_only=True)
class QueueState:
    """The queue."""

    paused: bool = wire_field("Whether jobs wait though a device is free.")
    depth: int = wire_field("Jobs that wait.")
    capacity: int = wire_field("Jobs that may wait.")
    entries: tuple[QueueEntry, ...] = wire_field("The jobs that run, then those that wait.")


async def create(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Queue a job and answer with its id at once."""
    wanted = await read_json(req, JobRequest)
    request, webhook_url = await asyncio.to_thread(_inner, wanted), wanted.webhook_url
    del wanted  # PERF: it holds the text of all media
    if webhook_url is not None:
        service.webhooks.check(webhook_url)
    job = await submit(service, req, request, idempotency_key=_idempotency_key(req), webhook_url=webhook_url)
    resp.set_header("Location", f"{site_of(req).prefix}/api/jobs/{job.id}")
    answer_json(resp, JobAccepted(id=job.id, state=job.state, position=job.position), 202)


async def list_jobs(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Answer with the jobs that are kept, newest first."""
    query = query_of(req)
    state, kind = _word(query, "state", get_args(JobState)), _word(query, "kind", tuple(JOB_KINDS))
    jobs = await asyncio.to_thread(lambda: service.engine.jobs(state=state, kind=kind))
    answer_json(resp, [job.to_json() for job in reversed(jobs[-_MAX_LISTED:])])


async def get_job(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, id: str) -> None:
    """Answer with what there is to say of a job."""
    answer_json(resp, (await _job(service, id)).to_json())


async def cancel(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, id: str) -> None:
    """Cancel a job, and answer with how it is then; one that has ended stays as it is."""
    job = await _job(service, id)
    await asyncio.to_thread(job.cancel)
    answer_json(resp, job.to_json())


async def events(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, id: str) -> None:
    """Answer with the events of a job from the first on, or from the one after Last-Event-ID; 204 after the end."""
    form = image_data_of(req)
    job = await _job(service, id)
    start = _start(req)
    if start > _last_number(job):
        resp.status = 204  # which tells an EventSource not to come back
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
    """Answer with what the job made, as its own route would; 409 while it has not ended."""
    form = image_data_of(req)
    job = await _job(service, id)
    if not job.finished:
        raise ConflictError(f"the job is {job.state}", hint=f"GET /api/jobs/{job.id}/events waits for its end")
    await answer_result(req, resp, JOB_KINDS[job.kind], await asyncio.to_thread(job.result), form)


async def pause(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Begin no more jobs; what runs goes on."""
    await asyncio.to_thread(service.engine.pause)
    await _answer_queue(service, resp)


async def resume(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Begin jobs again."""
    await asyncio.to_thread(service.engine.resume)
    await _answer_queue(service, resp)


async def reorder(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Move a waiting job to another place."""
    request = await read_json(req, MoveRequest)
    place = await asyncio.to_thread(service.engine.move, request.id, request.position)
    job = await _job(service, request.id)
    if not place:
        raise ConflictError(f"the job is {job.state} and waits no more")
    answer_json(resp, JobAccepted(id=job.id, state=job.state, position=place))


async def queue(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Answer with how long the queue is, and whether it is paused."""
    await _answer_queue(service, resp)


async def _answer_queue(service: Service, resp: falcon.asgi.Response) -> None:
    waiting = service.engine.queue
    answer_json(
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


def _inner(wanted: JobRequest) -> Any:
    """Return the request inside. What is wrong with it is said with its path from the outside."""
    try:
        return from_json(JOB_KINDS[wanted.kind].request_class, wanted.request)
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
    """Return the number of the event after the last one that the client has seen."""
    last = req.get_header("Last-Event-ID") or query_of(req).get("last_event_id")
    return int(last) + 1 if last and last.isascii() and last.isdigit() and len(last) <= _MAX_ID_DIGITS else 0


def _last_number(job: Job) -> float:
    """Return the number of the last event that the stream of a job has; of one that goes on there is none yet."""
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
            "Answers at once. A second request with the same Idempotency-Key gets the job of the first. Jobs are not "
            "cancelled when the client leaves."
        ),
        handler=create,
        tag="jobs",
        request=JobRequest,
        parameters=(
            Query(
                name="Idempotency-Key",
                doc="1 to 200 visible characters that stand for this request.",
                place="header",
            ),
        ),
        responses=(
            ResponseSpec(
                status=202,
                doc="It is accepted.",
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
        summary="The jobs that are kept, newest first",
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
        summary="How a job is",
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
        doc="It ends at once; work under way stops at its next step. One that has ended stays as it is.",
        handler=cancel,
        tag="jobs",
        path_docs=_ID,
        responses=(ResponseSpec(doc="How it is now.", content={JSON: JobInfo}),),
        errors=("JOB_NOT_FOUND",),
    ),
    Route(
        method="GET",
        path="/api/jobs/{id}/events",
        name="job_events",
        summary="What happens to a job, as it happens",
        doc=(
            "Events are those of the streaming route of its kind, each with an `id`; a client that comes back sends "
            "the last one it saw as Last-Event-ID and goes on there."
        ),
        handler=events,
        tag="jobs",
        path_docs=_ID,
        parameters=(IMAGE_DATA, Query(name="Last-Event-ID", doc="The last event that was seen.", place="header")),
        responses=(
            ResponseSpec(doc="Events.", content={EVENT_STREAM: EVENTS}),
            ResponseSpec(status=204, doc="The client has seen the end: no more will come."),
        ),
        errors=("JOB_NOT_FOUND",),
        example="curl -N localhost:7680/api/jobs/ID/events -H 'Last-Event-ID: 7'",
    ),
    Route(
        method="GET",
        path="/api/jobs/{id}/result",
        name="job_result",
        summary="What a job made",
        doc="As the route of its kind answers: images as they are, JSON where Accept asks for it.",
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
        summary="How long the queue is",
        handler=queue,
        tag="jobs",
        responses=(ResponseSpec(doc="The queue.", content={JSON: QueueState}),),
    ),
    Route(
        method="POST",
        path="/api/queue/pause",
        name="pause_queue",
        summary="Begin no more jobs",
        doc="What runs goes on; jobs may be submitted, and downloads go on. A restart keeps the queue paused.",
        handler=pause,
        tag="jobs",
        responses=(ResponseSpec(doc="It is paused.", content={JSON: QueueState}),),
    ),
    Route(
        method="POST",
        path="/api/queue/resume",
        name="resume_queue",
        summary="Begin jobs again",
        handler=resume,
        tag="jobs",
        responses=(ResponseSpec(doc="It goes on.", content={JSON: QueueState}),),
    ),
    Route(
        method="POST",
        path="/api/queue/reorder",
        name="reorder_queue",
        summary="Move a waiting job to another place",
        handler=reorder,
        tag="jobs",
        request=MoveRequest,
        responses=(ResponseSpec(doc="Where it stands now.", content={JSON: JobAccepted}),),
        errors=("JOB_NOT_FOUND", "CONFLICT"),
    ),
)
