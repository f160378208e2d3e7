"""Download jobs as a queue: the progress of each, and a feed of the events of all."""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import Any

import attrs

from mold_core.engine import Job
from mold_core.wire import DownloadDone, DownloadProgress, ProgressEvent
from mold_core.wire.fields import wire_field
from mold_http.sse import Feeds, QueueFeed, Source, frame

__all__ = ["DownloadSource", "DownloadState", "Downloads"]

_HISTORY = 20

_STATUS = {"queued": "queued", "running": "active", "done": "completed", "failed": "failed", "cancelled": "cancelled"}


@attrs.frozen(kw_only=True)
class DownloadState:
    """A download in the list of downloads."""

    id: str = wire_field("Id of the download and of its job.")
    model: str = wire_field("Full name of the model.")
    status: str = wire_field("State of the download.", choices=tuple(_STATUS.values()))
    files_done: int = wire_field("Number of downloaded files.", default=0)
    files_total: int = wire_field("Total number of files.", default=0)
    bytes_done: int = wire_field("Number of downloaded bytes.", default=0)
    bytes_total: int = wire_field("Total number of bytes.", default=0)
    current_file: str | None = wire_field("File that is being downloaded.", default=None)
    started_at: int | None = wire_field("Start time, in milliseconds since 1970.", default=None)
    completed_at: int | None = wire_field("End time, in milliseconds since 1970.", default=None)
    error: str | None = wire_field("Reason for a failure.", default=None)


class _Followed:
    """A download job, its progress so far, and the last event that was reported."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.state = DownloadState(id=job.id, model=job.model or "", status="queued")
        self.next = 0
        self.started = False
        self.end_sent = False


class Downloads:
    """Follows download jobs and reports their events to every open feed."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._followed: dict[str, _Followed] = {}
        self._ended: deque[str] = deque()
        self._feeds: list[QueueFeed[dict[str, Any]]] = []

    def follow(self, job: Job) -> None:
        """Follow a job from now on, unless it is already followed."""
        with self._lock:
            if job.id in self._followed:
                return
            followed = self._followed[job.id] = _Followed(job)
        self._publish({"type": "enqueued", "id": job.id, "model": followed.state.model, "position": job.position})
        job.watch(lambda: self._update(followed))
        self._update(followed)

    def states(self) -> list[DownloadState]:
        """Return every kept download, oldest first."""
        with self._lock:
            return [followed.state for followed in self._followed.values()]

    def open(self, feeds: Feeds) -> QueueFeed[dict[str, Any]]:
        """Return a feed of all events from now on."""
        feed: QueueFeed[dict[str, Any]] = QueueFeed(feeds)
        with self._lock:
            self._feeds.append(feed)
        return feed

    def close(self, feed: QueueFeed[dict[str, Any]]) -> None:
        """Remove a feed."""
        with self._lock:
            self._feeds.remove(feed)

    def _publish(self, event: dict[str, Any]) -> None:
        with self._lock:
            feeds = tuple(self._feeds)
        for feed in feeds:
            feed.put(event)

    def _update(self, followed: _Followed) -> None:
        """Read the new events of a job and report them."""
        with self._lock:
            job = followed.job
            events, finished = job.events_so_far(followed.next)
            followed.next += len(events)
            messages = [event for event in (_apply(followed, event) for event in events) if event is not None]
            if job.state != "queued" and not followed.started:
                followed.started = True
                messages.insert(0, {"type": "dequeued", "id": job.id})
            if finished and not followed.end_sent:
                followed.end_sent = True
                messages.append(_end(followed))
                self._forget_old(job.id)
            else:
                followed.state = attrs.evolve(followed.state, status=_STATUS[job.state], started_at=_ms(job.started_at))
        for event in messages:
            self._publish(event)

    def _forget_old(self, id: str) -> None:
        self._ended.append(id)
        if len(self._ended) > _HISTORY:
            self._followed.pop(self._ended.popleft(), None)


def _apply(followed: _Followed, event: ProgressEvent) -> dict[str, Any] | None:
    """Apply an event of a download, and return the event for feeds."""
    state, id_ = followed.state, followed.job.id
    if isinstance(event, DownloadProgress):
        first = state.files_total == 0
        followed.state = state = attrs.evolve(
            state,
            files_done=event.file_index - 1,
            files_total=event.total_files,
            bytes_done=event.batch_bytes_downloaded,
            bytes_total=event.batch_bytes_total,
            current_file=event.filename,
        )
        if first:
            return {"type": "started", "id": id_, "files_total": state.files_total, "bytes_total": state.bytes_total}
        message = {"type": "progress", "id": id_, "files_done": state.files_done, "bytes_done": state.bytes_done}
        return {**message, "current_file": event.filename}
    if isinstance(event, DownloadDone):
        followed.state = attrs.evolve(
            state,
            files_done=event.file_index,
            files_total=event.total_files,
            bytes_done=event.batch_bytes_downloaded,
            bytes_total=event.batch_bytes_total,
        )
        return {"type": "file_done", "id": id_, "filename": event.filename}
    return None


def _end(followed: _Followed) -> dict[str, Any]:
    job = followed.job
    error = str(job.error) if job.error is not None else None
    followed.state = attrs.evolve(
        followed.state,
        status=_STATUS[job.state],
        current_file=None,
        started_at=_ms(job.started_at),
        completed_at=_ms(job.finished_at),
        error=error,
    )
    if job.state == "done":
        return {"type": "job_done", "id": job.id, "model": followed.state.model}
    if job.state == "cancelled":
        return {"type": "job_cancelled", "id": job.id}
    return {"type": "job_failed", "id": job.id, "error": error}


def _ms(moment_s: float | None) -> int | None:
    return None if moment_s is None else int(moment_s * 1000)


class DownloadSource(Source):
    """The ``download`` events of all downloads from now on."""

    def __init__(self, downloads: Downloads, feeds: Feeds) -> None:
        self._queue = downloads.open(feeds)
        self._downloads = downloads
        super().__init__(self._queue)

    async def read(self) -> list[bytes]:
        """Return the events since the last call."""
        return [frame("download", event) for event in self._queue.take()]

    def close(self) -> None:
        """Remove the feed."""
        self._downloads.close(self._queue)
