"""The download queue: downloading models with progress and cancellation."""

from __future__ import annotations

import asyncio

import attrs
import falcon.asgi

from mold_core.errors import JobNotFoundError
from mold_core.jobs.kinds import JOB_KINDS
from mold_core.wire import PullRequest
from mold_core.wire.fields import wire_field
from mold_http.downloads import DownloadSource, DownloadState
from mold_http.guard.bodies import read_json
from mold_http.jobs import submit
from mold_http.responses import JSON, respond_json
from mold_http.routes.route import EVENT_STREAM, ResponseSpec, Route
from mold_http.service import Service
from mold_http.sse import send_events

__all__ = ["ROUTES", "DownloadAccepted", "DownloadList"]


@attrs.frozen(kw_only=True)
class DownloadAccepted:
    """A queued or running download."""

    id: str = wire_field("Id of the download and of its job.")
    position: int = wire_field("Position in the queue, from 1; 0 if it is running.")


@attrs.frozen(kw_only=True)
class DownloadList:
    """All downloads."""

    active: DownloadState | None = wire_field("The running download.", default=None)
    queued: tuple[DownloadState, ...] = wire_field("Queued downloads, in order.")
    history: tuple[DownloadState, ...] = wire_field("The last finished downloads, newest first.")


async def enqueue(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Queue a download; 409 with its id if the model is already being downloaded."""
    request = await read_json(req, PullRequest)
    known = {state.id for state in service.downloads.states()}
    job = await submit(service, req, request)
    status = 409 if job.id in known else 200
    respond_json(resp, DownloadAccepted(id=job.id, position=job.position), status)


async def list_downloads(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the running, queued and last finished downloads."""
    states = service.downloads.states()
    ended = [state for state in states if state.status not in ("active", "queued")]
    respond_json(
        resp,
        DownloadList(
            active=next((state for state in states if state.status == "active"), None),
            queued=tuple(state for state in states if state.status == "queued"),
            history=tuple(reversed(ended)),
        ),
    )


async def cancel(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, id: str) -> None:
    """Cancel a download; the bytes downloaded so far are kept for the next one."""
    try:
        job = await asyncio.to_thread(service.engine.job, id)
    except JobNotFoundError:
        raise _unknown(id) from None
    if not JOB_KINDS[job.kind].is_download or job.finished:
        raise _unknown(id)
    job.cancel()
    resp.status = 204


def _unknown(id: str) -> JobNotFoundError:
    return JobNotFoundError(f"unknown download id {id[:64]!r}", field="id")


async def stream(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the ``download`` events of all downloads from now on."""
    send_events(req, resp, service.feeds, DownloadSource(service.downloads, service.feeds))


ROUTES = (
    Route(
        method="POST",
        path="/api/downloads",
        name="enqueue_download",
        summary="Queue a model download",
        handler=enqueue,
        tag="downloads",
        request=PullRequest,
        responses=(
            ResponseSpec(doc="It is queued or running.", content={JSON: DownloadAccepted}),
            ResponseSpec(
                status=409,
                doc="The model is already being downloaded; the id of that download.",
                content={JSON: DownloadAccepted},
            ),
        ),
        errors=("UNKNOWN_MODEL", "QUEUE_FULL"),
    ),
    Route(
        method="GET",
        path="/api/downloads",
        name="list_downloads",
        summary="All downloads",
        handler=list_downloads,
        tag="downloads",
        responses=(ResponseSpec(doc="The downloads.", content={JSON: DownloadList}),),
        example="curl localhost:7680/api/downloads",
    ),
    Route(
        method="GET",
        path="/api/downloads/stream",
        name="stream_downloads",
        summary="Stream download events",
        doc=(
            "Events are `download` with a `type`: enqueued, dequeued, started, progress, file_done, job_done, "
            "job_failed, job_cancelled. Past events are not repeated."
        ),
        handler=stream,
        tag="downloads",
        responses=(ResponseSpec(doc="Events.", content={EVENT_STREAM: ("download",)}),),
    ),
    Route(
        method="DELETE",
        path="/api/downloads/{id}",
        name="cancel_download",
        summary="Cancel a download",
        handler=cancel,
        tag="downloads",
        path_docs={"id": "Id of the download."},
        responses=(ResponseSpec(status=204, doc="The download is cancelled."),),
        errors=("JOB_NOT_FOUND",),
    ),
)
