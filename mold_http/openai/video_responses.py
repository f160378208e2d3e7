"""Jobs as the videos of OpenAI's API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs

from mold_core.engine import Job
from mold_core.errors import CancelledError
from mold_core.wire import DenoiseStep
from mold_core.wire.chain import ChainDenoiseStep
from mold_core.wire.fields import wire_field

__all__ = ["DeletedVideo", "Video", "VideoList", "is_video", "video_list", "video_of"]

_STATUSES: dict[str, Literal["queued", "in_progress", "completed", "failed"]] = {
    "queued": "queued",
    "running": "in_progress",
    "done": "completed",
    "failed": "failed",
    "cancelled": "failed",
}


@attrs.frozen(kw_only=True)
class VideoFailure:
    """Why a video failed."""

    code: str = wire_field("Error code.")
    message: str = wire_field("Error message.")


@attrs.frozen(kw_only=True)
class Video:
    """A video and the state of its job."""

    id: str = wire_field("Id of the video and of its job.")
    object: Literal["video"] = wire_field("Object type.", default="video")
    model: str = wire_field("Full name of the model.")
    status: Literal["queued", "in_progress", "completed", "failed"] = wire_field("State of the job.")
    progress: int = wire_field("Percentage of denoising steps that are done.")
    created_at: int = wire_field("Creation time, in seconds since 1970.")
    completed_at: int | None = wire_field("End of the job, in seconds since 1970.", default=None)
    expires_at: int | None = wire_field("Always null.", default=None)
    prompt: str | None = wire_field("The prompt.", default=None)
    seconds: str = wire_field("Length in seconds.")
    size: str = wire_field("WIDTHxHEIGHT.")
    remixed_from_video_id: str | None = wire_field("Always null.", default=None)
    error: VideoFailure | None = wire_field("Why it failed.", default=None)


@attrs.frozen(kw_only=True)
class VideoList:
    """A page of videos."""

    object: Literal["list"] = wire_field("Object type.", default="list")
    data: tuple[Video, ...] = wire_field("The videos.")
    first_id: str | None = wire_field("Id of the first video of the page.", default=None)
    last_id: str | None = wire_field("Id of the last video of the page.", default=None)
    has_more: bool = wire_field("Whether more videos follow.")


@attrs.frozen(kw_only=True)
class DeletedVideo:
    """A video that was deleted."""

    id: str = wire_field("Its id.")
    object: Literal["video.deleted"] = wire_field("Object type.", default="video.deleted")
    deleted: bool = wire_field("Always true.", default=True)


def is_video(job: Job) -> bool:
    """Return whether a job generates a video."""
    return job.kind == "chain" or (job.kind == "generate" and job.request.frames is not None)


def video_of(job: Job) -> Video:
    """Return a job as a video."""
    request, error = job.request, job.error
    frames = _frames(job)
    code = "cancelled" if isinstance(error, CancelledError) else "" if error is None else error.code.lower()
    return Video(
        id=job.id,
        model=job.model or "",
        status=_STATUSES[job.state],
        progress=100 if job.state == "done" else _progress(job),
        created_at=int(job.created_at),
        completed_at=int(job.finished_at) if job.finished_at and job.state == "done" else None,
        prompt=request.prompt,
        seconds=f"{(frames - 1) / (request.fps or 24):.2f}".rstrip("0").rstrip("."),
        size=f"{request.width}x{request.height}",
        error=None if error is None else VideoFailure(code=code, message=error.public_text),
    )


def video_list(jobs: Sequence[Job], after: str | None, limit: int) -> VideoList:
    """Return a page of at most `limit` videos, those behind the video `after`."""
    ids = [job.id for job in jobs]
    start = ids.index(after) + 1 if after in ids else 0
    page = tuple(video_of(job) for job in jobs[start : start + limit])
    more = start + limit < len(jobs)
    return VideoList(
        data=page, first_id=page[0].id if page else None, last_id=page[-1].id if page else None, has_more=more
    )


def _frames(job: Job) -> int:
    request = job.request
    frames: int | None = request.total_frames if job.kind == "chain" else request.frames
    return frames or sum(stage.frames for stage in getattr(request, "stages", ())) or 1


def _progress(job: Job) -> int:
    """Return the percentage of steps that are done, at most 99."""
    events, _ended = job.events_so_far()
    clips = max(len(job.request.stages), 1) if job.kind == "chain" else 1
    for event in reversed(events):
        if isinstance(event, ChainDenoiseStep):
            return min(int(100 * (event.stage_idx + event.step / event.total) / clips), 99)
        if isinstance(event, DenoiseStep) and clips == 1:
            return min(100 * event.step // event.total, 99)
    return 0
