"""Submits jobs without blocking the event loop, waits for their results, and streams their events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import falcon.asgi

from mold_core.catalog import refuse_lora_paths
from mold_core.engine import Job
from mold_core.errors import CancelledError, MoldError
from mold_core.jobs.kinds import JOB_KINDS, JobKind
from mold_core.wire import ProgressEvent
from mold_http.disconnect import while_connected
from mold_http.errors import log_failure
from mold_http.media_threads import carries_media
from mold_http.service import Service
from mold_http.sse import Feed, Source, frame, progress_frame

__all__ = ["JobSource", "ResultFrame", "result_of", "submit"]

log = logging.getLogger("mold.http")

# Returns the closing frame of a finished job; called in a thread.
ResultFrame = Callable[[JobKind, Any], bytes]


async def submit(service: Service, req: falcon.asgi.Request, request: Any, **how: Any) -> Job:
    """Return the job of a request. Raises the errors of `Engine.submit`, and ValidationError for paths of files.

    If the server chooses the model, it uses a downloaded one, so that no request starts a download.
    """
    refuse_lora_paths(request)
    call = partial(service.engine.submit, request, download=False, **how)
    job: Job = await (service.media.run(req, call) if carries_media(request) else asyncio.to_thread(call))
    log.info("job accepted", extra={"job": job.id, "kind": job.kind})
    if JOB_KINDS[job.kind].is_download:
        service.downloads.follow(job)
    return job


async def result_of(req: falcon.asgi.Request, job: Job, *, owner: bool = True) -> Any:
    """Return the result of a job, or raise its error. Raises ClientDisconnected if the client disconnects.

    With `owner` the job is cancelled if the client disconnects.
    """
    finished, loop = asyncio.Event(), asyncio.get_running_loop()

    def check() -> None:
        if job.finished:
            loop.call_soon_threadsafe(finished.set)

    stop = job.watch(check)
    try:
        check()
        await while_connected(req.scope, finished.wait())
        return await asyncio.to_thread(job.result)
    finally:
        stop()
        if owner:
            job.cancel()


class JobSource(Source):
    """The events of a job, then its result or error.

    `start` is the number of the first event to send. `numbered` adds ids to the frames, for clients that reconnect.
    `owner`: the job is cancelled if the stream closes early, because no other client waits for it.
    """

    def __init__(
        self,
        service: Service,
        job: Job,
        result_frame: ResultFrame,
        *,
        start: int = 0,
        numbered: bool = False,
        owner: bool = True,
    ) -> None:
        super().__init__(Feed(service.feeds))
        self._job = job
        self._result_frame = result_frame
        self._next = start
        self._numbered = numbered
        self._owner = owner
        self._stop = job.watch(self.feed.wake)

    async def read(self) -> list[bytes]:
        """Return the events since the last call as frames."""
        events, self.finished = self._job.numbered_so_far(self._next)
        if events:
            self._next = events[-1][0] + 1
        frames = ((number, self.frame_of(event)) for number, event in events)
        if not self._numbered:
            return [data for _number, data in frames if data]
        return [b"id: %d\n%b" % (number, data) for number, data in frames if data]

    def frame_of(self, event: ProgressEvent) -> bytes:
        """Return the frame of an event; empty for events that are not sent."""
        return progress_frame(event)

    async def last(self) -> bytes:
        """Return the frame ``complete`` or ``error``."""
        number = self._job.event_count if self._numbered else None
        if not self.finished:
            if not self._owner:
                return b""  # the feed ended, but the job continues, and the client may reconnect
            return self.error_frame(CancelledError("the server is stopping"), number)
        try:
            result = await asyncio.to_thread(self._job.result)
            body = await asyncio.to_thread(self._result_frame, JOB_KINDS[self._job.kind], result)
        except MoldError as error:
            if error.http_status >= 500:
                log_failure("job", error, job=self._job.id)
            return self.error_frame(error, number)
        return body if number is None or not body else f"id: {number}\n".encode() + body

    def close(self) -> None:
        """Stop listening; cancel the job if this stream owns it."""
        self._stop()
        if self._owner:
            self._job.cancel()

    def error_frame(self, error: MoldError, number: int | None) -> bytes:
        """Return the frame ``error``."""
        envelope = error.to_json()
        return frame("error", {"message": envelope["error"], "code": envelope["code"]}, number)
