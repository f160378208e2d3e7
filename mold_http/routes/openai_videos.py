"""The video routes of OpenAI's API, with the additional fields of SGLang and vLLM-Omni."""

from __future__ import annotations

import asyncio

import falcon.asgi

from mold_core.engine import Job
from mold_core.errors import JobNotFoundError, ValidationError
from mold_core.wire import VideoData
from mold_http.errors import ConflictError, ForbiddenError
from mold_http.guard.bodies import query_of
from mold_http.jobs import submit
from mold_http.openai.names import chosen_model
from mold_http.openai.video_requests import VideoGeneration, read_video, video_request
from mold_http.openai.video_responses import DeletedVideo, Video, VideoList, is_video, video_list, video_of
from mold_http.responses import JSON, respond_json
from mold_http.routes.capabilities import may_delete
from mold_http.routes.openai_images import MODEL_HEADER
from mold_http.routes.route import Query, ResponseSpec, Route
from mold_http.service import Service

__all__ = ["ROUTES"]

_MAX_PAGE = 100


async def create(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Queue a video, and respond with its id immediately."""
    body = await read_video(req)
    spec = await asyncio.to_thread(chosen_model, service.engine, body.model, "videos")
    job = await submit(service, req, video_request(service.engine, body, spec))
    resp.set_header("X-Mold-Model", spec.name)
    respond_json(resp, video_of(job))


async def list_videos(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with a page of videos."""
    query = query_of(req)
    limit, order = _limit(query.get("limit")), query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise ValidationError("order must be asc or desc", field="order", value=order)
    jobs = [job for job in await asyncio.to_thread(service.engine.jobs) if is_video(job)]
    respond_json(resp, video_list(jobs if order == "asc" else jobs[::-1], query.get("after"), limit))


async def get_video(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, id: str) -> None:
    """Respond with the state of a video."""
    respond_json(resp, video_of(await _video(service, id)))


async def content(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, id: str) -> None:
    """Respond with the file of a finished video, or its first frame."""
    variant = query_of(req).get("variant", "video")
    if variant not in ("video", "thumbnail"):
        raise ValidationError("variant must be video or thumbnail", field="variant", value=variant)
    job = await _video(service, id)
    if not job.finished:
        raise ConflictError(f"the video is {video_of(job).status}", hint="its content exists when status is completed")
    result = await asyncio.to_thread(job.result)
    video: VideoData = result.video
    if variant == "video":
        resp.content_type, resp.data = "video/mp4", video.data
        return
    if video.thumbnail is None:
        raise JobNotFoundError("this video has no thumbnail", field="variant", value=variant)
    resp.content_type, resp.data = "image/png", video.thumbnail


async def delete(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, id: str) -> None:
    """Cancel a video if it is not finished, and delete it with its files."""
    job = await _video(service, id)
    if not may_delete(service, req):
        raise ForbiddenError("deleting results is disabled; set MOLD_GALLERY_ALLOW_DELETE=1 to enable")
    await asyncio.to_thread(_delete, service, job)
    respond_json(resp, DeletedVideo(id=id))


def _delete(service: Service, job: Job) -> None:
    service.engine.delete_job(job.id)
    for name in job.files if service.gallery is not None else ():
        service.gallery.delete(name)  # type: ignore[union-attr]


async def _video(service: Service, id: str) -> Job:
    """Return the job of a video. Raises JobNotFoundError, also for a job that generates no video."""
    job = await asyncio.to_thread(service.engine.job, id[:200])
    if not is_video(job):
        raise JobNotFoundError(f"job {job.id} generates no video", field="id", value=id)
    return job


def _limit(text: str | None) -> int:
    if text is None:
        return 20
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= _MAX_PAGE):
        raise ValidationError(f"limit must be from 1 to {_MAX_PAGE}", field="limit", value=text)
    return int(text)


_ID = {"id": "Id of the video."}

ROUTES = (
    Route(
        method="POST",
        path="/v1/videos",
        name="openai_create_video",
        summary="Queue a video, in OpenAI's form",
        doc=(
            "The body is a form or JSON. `seconds` becomes the nearest number of frames that the model can generate. "
            "The video is a job: /api/jobs has it too."
        ),
        handler=create,
        tag="openai",
        request=VideoGeneration,
        body_type="multipart/form-data",
        responses=(ResponseSpec(doc="It is queued.", content={JSON: Video}, headers=MODEL_HEADER),),
        errors=(
            "UNKNOWN_MODEL",
            "MODEL_NOT_FOUND",
            "INFERENCE_ERROR",
            "QUEUE_FULL",
            "INSUFFICIENT_STORAGE",
        ),
        tier="generation",
        example=(
            'video = client.videos.create(prompt="a red kite", seconds="4", size="768x512")\n'
            "video = client.videos.poll(video.id)\n"
            'client.videos.download_content(video.id).write_to_file("kite.mp4")'
        ),
    ),
    Route(
        method="GET",
        path="/v1/videos",
        name="openai_videos",
        summary="List videos, in OpenAI's form",
        handler=list_videos,
        tag="openai",
        parameters=(
            Query(name="after", doc="Id of the last video of the previous page."),
            Query(name="limit", doc="Videos per page.", type=int, default=20, minimum=1, maximum=_MAX_PAGE),
            Query(name="order", doc="`desc` (newest first) or `asc`.", default="desc"),
        ),
        responses=(ResponseSpec(doc="The videos.", content={JSON: VideoList}),),
    ),
    Route(
        method="GET",
        path="/v1/videos/{id}",
        name="openai_video",
        summary="Describe a video, in OpenAI's form",
        handler=get_video,
        tag="openai",
        path_docs=_ID,
        responses=(ResponseSpec(doc="The video.", content={JSON: Video}),),
        errors=("JOB_NOT_FOUND",),
    ),
    Route(
        method="DELETE",
        path="/v1/videos/{id}",
        name="openai_delete_video",
        summary="Cancel or delete a video, in OpenAI's form",
        handler=delete,
        tag="openai",
        path_docs=_ID,
        responses=(ResponseSpec(doc="It is deleted, with its files.", content={JSON: DeletedVideo}),),
        errors=("JOB_NOT_FOUND", "OUTPUT_ERROR"),
    ),
    Route(
        method="GET",
        path="/v1/videos/{id}/content",
        name="openai_video_content",
        summary="Fetch the file of a video",
        handler=content,
        tag="openai",
        path_docs=_ID,
        parameters=(Query(name="variant", doc="`video` or `thumbnail`, the first frame.", default="video"),),
        responses=(ResponseSpec(doc="The file.", content={"video/mp4": "the video", "image/png": "the first frame"}),),
        errors=(
            "JOB_NOT_FOUND",
            "CONFLICT",
            "CANCELLED",
            "INFERENCE_ERROR",
            "CHAIN_FAILED",
            "INSUFFICIENT_MEMORY",
            "INSUFFICIENT_STORAGE",
            "MODEL_NOT_FOUND",
        ),
    ),
)
