"""Responses with the result of a job of any kind, in the forms that its kind declares."""

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
from mold_http.responses import JSON, dumps, json_of
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
    _MULTIPART: "one part per image",
    "text/plain": "one line, of a pull",
    JSON: reduce(or_, (kind.response_class for kind in JOB_KINDS.values() if kind.has_json)),
}


async def respond_result(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, kind: JobKind, result: Any, form: ImageDataForm
) -> None:
    """Respond with a result: as files or text if its kind has them, as JSON otherwise or if Accept prefers it."""
    bodies = kind.bodies_of(result)
    resp.set_headers(dict(kind.headers_of(result)))
    if bodies and kind.has_json:
        resp.append_header("Vary", "Accept")
    type_ = bodies[0].content_type if len(bodies) == 1 else _MULTIPART
    if bodies and not (kind.has_json and preferred(req, (type_, JSON)) == JSON):
        _respond_bodies(resp, bodies)
        return
    resp.content_type = JSON
    prefix = site_of(req).prefix
    resp.data = await asyncio.to_thread(lambda: dumps(json_of(kind.json_of(result, form, prefix))))


def result_frame(kind: JobKind, result: Any, form: ImageDataForm = "bytes", prefix: str = "") -> bytes:
    """Return the `complete` event of a result; empty for kinds whose streams end with another event."""
    return frame("complete", kind.event_of(result, form, prefix)) if kind.ends_with_complete else b""


def _respond_bodies(resp: falcon.asgi.Response, bodies: Sequence[ResultBody]) -> None:
    if len(bodies) == 1:
        resp.content_type, resp.data = bodies[0].content_type, bodies[0].data
        return
    boundary = f"mold-{secrets.token_hex(12)}"
    resp.content_type = f"{_MULTIPART}; boundary={boundary}"
    resp.data = b"".join(_multipart(bodies, boundary))


def _multipart(bodies: Sequence[ResultBody], boundary: str) -> Iterator[bytes]:
    """Yield a multipart/mixed body (RFC 2046), with the headers of each part."""
    for body in bodies:
        headers = {"Content-Type": body.content_type, "Content-Length": str(len(body.data)), **body.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        yield f"--{boundary}\r\n{lines}\r\n".encode()
        yield body.data
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()
