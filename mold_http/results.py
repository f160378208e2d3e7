"""Responses with the result of a job of any kind."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import or_
from typing import Any, Literal

import falcon.asgi

from mold_core.jobs.kinds import JOB_KINDS, JobKind, ResultBody
from mold_core.media.formats import CONTENT_TYPES
from mold_http.accept import preferred
from mold_http.guard.proxies import site_of
from mold_http.responses import JSON, dumps, json_of, respond_json
from mold_http.sse import frame

__all__ = ["FORMS", "RESULT_CONTENT", "ImageDataForm", "respond_result", "result_frame"]

# The form of images in JSON.
ImageDataForm = Literal["bytes", "base64", "url", "none"]
FORMS: tuple[ImageDataForm, ...] = ("bytes", "base64", "url", "none")

_FILES = dict.fromkeys(CONTENT_TYPES.values(), "the file")
_MULTIPART = "multipart/mixed"

# Content types of results of any kind.
RESULT_CONTENT: dict[str, Any] = {
    **_FILES,
    "multipart/mixed": "one part per image",
    "text/plain": "one line, of a pull",
    JSON: reduce(or_, (kind.response_class for kind in JOB_KINDS.values() if kind.has_json)),
}


async def respond_result(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, result: Any, form: ImageDataForm
) -> None:
    """Respond with a result: images as files unless Accept prefers JSON, other results as JSON."""
    if isinstance(result, GenerateResponse | UpscaleResponse):
        resp.append_header("Vary", "Accept")
    if isinstance(result, GenerateResponse):
        resp.set_headers(_image_headers(result))
        if preferred(req, (_type_of(result), JSON)) != JSON:
            _respond_images(resp, result)
            return
        resp.content_type = JSON
        prefix = site_of(req).prefix
        resp.data = await asyncio.to_thread(lambda: dumps(generate_event(result, form, prefix)))
    elif isinstance(result, UpscaleResponse) and preferred(req, (CONTENT_TYPES[result.image.format], JSON)) != JSON:
        resp.content_type = CONTENT_TYPES[result.image.format]
        resp.data = result.image.data
    elif isinstance(result, PullResponse):
        resp.content_type = "text/plain; charset=utf-8"
        resp.text = f"model '{result.model}' pulled successfully\n"
    else:
        respond_json(resp, await asyncio.to_thread(json_of, result))


def result_frame(kind: JobKind, result: Any, form: ImageDataForm = "bytes", prefix: str = "") -> bytes:
    """Return the `complete` event of a result; empty for kinds whose streams end with another event."""
    return frame("complete", kind.event_of(result, form, prefix)) if kind.ends_with_complete else b""


def _answer_bodies(resp: falcon.asgi.Response, bodies: Sequence[ResultBody]) -> None:
    if len(bodies) == 1:
        resp.content_type, resp.data = bodies[0].content_type, bodies[0].data
        return
    boundary = f"mold-{secrets.token_hex(12)}"
    resp.content_type = f"{_MULTIPART}; boundary={boundary}"
    resp.data = b"".join(_multipart(bodies, boundary))


def _video_headers(video: VideoData) -> dict[str, str]:
    values: dict[str, object] = {
        "Frames": video.frames,
        "Fps": video.fps,
        "Width": video.width,
        "Height": video.height,
        "Has-Audio": 1 if video.has_audio else None,
        "Duration-Ms": video.duration_ms,
        "Audio-Sample-Rate": video.audio_sample_rate,
        "Audio-Channels": video.audio_channels,
    }
    return {f"X-Mold-Video-{name}": str(value) for name, value in values.items() if value is not None}


def _type_of(result: GenerateResponse) -> str:
    """Return the content type of a result that is sent as a file."""
    if result.video is not None:
        return CONTENT_TYPES[result.video.format]
    return CONTENT_TYPES[result.images[0].format] if len(result.images) == 1 else "multipart/mixed"


def _respond_images(resp: falcon.asgi.Response, result: GenerateResponse) -> None:
    resp.content_type = _type_of(result)
    if result.video is not None:
        resp.data = result.video.data
    elif len(result.images) == 1:
        resp.data = result.images[0].data
    else:
        boundary = f"mold-{secrets.token_hex(12)}"
        resp.content_type = f"multipart/mixed; boundary={boundary}"
        resp.data = b"".join(_parts(result, boundary))


def _parts(result: GenerateResponse, boundary: str) -> Iterator[bytes]:
    """Yield a multipart/mixed body (RFC 2046): one part per image, with its seed."""
    for image in result.images:
        seed = (result.seed_used + image.index) % (MAX_SEED + 1)
        yield (
            f"--{boundary}\r\nContent-Type: {CONTENT_TYPES[image.format]}\r\nContent-Length: {len(image.data)}\r\n"
            f"X-Mold-Seed-Used: {seed}\r\n\r\n"
        ).encode()
        yield image.data
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()
