"""Reads bodies up to a limit, checks their type, and converts them to wire objects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import cache
from typing import Any, TypeVar

import falcon.asgi

from mold_core.errors import MalformedError, QueueFullError
from mold_core.wire.convert import from_json
from mold_http.disconnect import ODD_VERSION
from mold_http.errors import MediaTypeError, TooLargeError
from mold_http.guard.json_text import JsonText, media_fields

__all__ = ["MAX_BODY_BYTES", "Budget", "body_of", "query_of", "read_json", "refuse_odd_heads", "too_large"]

T = TypeVar("T")

MAX_BODY_BYTES = 64 * 1024 * 1024

# Larger bodies are parsed in a thread, so that other requests do not wait.
_LARGE_BYTES = 64 * 1024
_PARSERS = 2

# Limit for all bodies that are being read or parsed.
_ALL_BODIES_BYTES = 16 * MAX_BODY_BYTES


def refuse_odd_heads(req: falcon.asgi.Request) -> None:
    """Raise MalformedError for unsupported versions of HTTP, and for a repeated length.

    A proxy may parse such a request differently, and treat its body as another request (request smuggling).
    """
    if req.scope.get(ODD_VERSION):
        raise MalformedError("this server supports HTTP/1.1 only")
    names = [name for name, _ in req.scope["headers"] if name in (b"content-length", b"transfer-encoding")]
    if len(names) > 1:
        raise MalformedError("a request must have one Content-Length or one Transfer-Encoding")


class Budget:
    """The memory in bytes that all bodies may use together until they are parsed."""

    def __init__(self, total: int) -> None:
        self._left = total

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that reserves bytes of the budget or raises QueueFullError; they are released at the end."""
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if size > self._left:
                raise QueueFullError("too many large requests at the same time")
            self._left -= size
            taken += size

        try:
            yield take
        finally:
            self._left += taken


@cache
def _budget() -> Budget:
    return Budget(_ALL_BODIES_BYTES)


@asynccontextmanager
async def body_of(req: falcon.asgi.Request) -> AsyncIterator[AsyncIterator[bytes]]:
    """Yield the body as it arrives; its budget is reserved until the `with` block ends.

    Raises MediaTypeError for a compressed body, TooLargeError as soon as it exceeds the limit, and QueueFullError if
    other bodies use too much of the budget.
    """
    _refuse_encoded(req)
    if (req.content_length or 0) > MAX_BODY_BYTES:
        raise too_large()
    with _budget().share() as take:
        async with aclosing(_chunks_of(req, take)) as chunks:
            yield chunks


async def _chunks_of(req: falcon.asgi.Request, take: Callable[[int], None]) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in req.stream:
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise too_large()
        take(len(chunk))
        yield chunk


def _refuse_encoded(req: falcon.asgi.Request) -> None:
    """Raise MediaTypeError for a body in a content coding, such as gzip."""
    coding = (req.get_header("Content-Encoding") or "identity").strip().lower()
    if coding not in ("", "identity"):
        raise MediaTypeError(
            f"the body must not have a Content-Encoding, but has {_plain(coding)}",
            hint="send it uncompressed",
            headers={"Accept-Encoding": "identity"},
        )


async def read_json(
    req: falcon.asgi.Request,
    cls: type[T],
    *,
    optional: bool = False,
    any_type: bool = False,
    media: frozenset[str] = frozenset(),
) -> T:
    """Return the wire object in a JSON body; an empty `optional` body is an empty object.

    With `any_type` the Content-Type does not matter, for clients that never set it. `media` has names of fields with
    base64 text, in addition to those that the class declares as bytes.

    Raises MediaTypeError, TooLargeError, MalformedError or a ValidationError that lists every problem with its path.
    """
    if not (any_type or (optional and not req.content_type) or _is_json(req.content_type)):
        raise MediaTypeError(
            f"the body must be JSON, not {_plain(req.content_type)}", hint="send Content-Type: application/json"
        )
    async with body_of(req) as chunks:
        text = JsonText(media_fields(cls) | media)  # type: ignore[arg-type]  # classes can be hashed
        async for chunk in chunks:
            text.feed(chunk)
        if optional and text.is_blank():
            text.feed(b"{}")
        if len(text) <= _LARGE_BYTES:
            return _structured(cls, text)
        return await asyncio.get_running_loop().run_in_executor(_parsers(), _structured, cls, text)


def _structured(cls: type[T], text: JsonText) -> T:
    try:
        tree = text.parse()
    except ValueError as error:
        raise MalformedError(f"this is not JSON: {error}") from None
    return from_json(cls, tree)


@cache
def _parsers() -> ThreadPoolExecutor:
    """Threads for large bodies only, so that the shared pool stays free and few bodies are parsed at a time."""
    return ThreadPoolExecutor(_PARSERS, thread_name_prefix="mold-bodies")


def _is_json(content_type: str | None) -> bool:
    media_type = (content_type or "").partition(";")[0].strip().lower()
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))


def _plain(content_type: str | None) -> str:
    return repr(content_type[:60]) if content_type else "without a Content-Type"


def too_large() -> TooLargeError:
    """Return the error for a body over the limit."""
    # The rest of the body is not read: the connection is closed after the response.
    return TooLargeError(f"the body must have at most {MAX_BODY_BYTES:,} bytes", headers={"Connection": "close"})


def query_of(req: falcon.asgi.Request) -> dict[str, Any]:
    """Return the parameters of the query string; the last value of a repeated one."""
    return {name: value[-1] if isinstance(value, list) else value for name, value in req.params.items()}
