"""Results of any kind as responses, in the forms that their kinds declare."""

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

__all__ = ["FORMS", "RESULT_CONTENT", "ImageDataForm", "answer_result", "result_frame"]

# How JSON carries images.
ImageDataForm = Literal["bytes", "base64", "url", "none"]
FORMS: tuple[ImageDataForm, ...] = ("bytes", "base64", "url", "none")

_FILES = dict.fromkeys(CONTENT_TYPES.values(), "the file")
_MULTIPART = "multipart/mixed"

# What a result of any kind may look like.
RESULT_CONTENT: dict[str, Any] = {
    **_FILES,
    _MULTIPART: "one part for each image",
    "text/plain": "one line, of a pull",
    JSON: reduce(or_, (kind.response_class for kind in JOB_KINDS.values() if kind.has_json)),
}


async def answer_result(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, kind: JobKind, result: Any, form: ImageDataForm
) -> None:
    """Respond with a result: as files or text if its kind has them, as JSON otherwise or if Accept prefers it."""
    bodies = kind.bodies_of(result)
    resp.set_headers(dict(kind.headers_of(result)))
    if bodies and kind.has_json:
        resp.append_header("Vary", "Accept")
    type_ = bodies[0].content_type if len(bodies) == 1 else _MULTIPART
    if bodies and not (kind.has_json and preferred(req, (type_, JSON)) == JSON):
        _answer_bodies(resp, bodies)
        return
    resp.content_type = JSON
    prefix = site_of(req).prefix
    resp.data = await asyncio.to_thread(lambda: dumps(json_of(kind.json_of(result, form, prefix))))


def result_frame(kind: JobKind, result: Any, form: ImageDataForm = "bytes", prefix: str = "") -> bytes:
    """Return the event `complete` of a result; nothing for a kind whose streams end with an event of their own."""
    return frame("complete", kind.event_of(result, form, prefix)) if kind.ends_with_complete else b""


def _answer_bodies(resp: falcon.asgi.Response, bodies: Sequence[ResultBody]) -> None:
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
