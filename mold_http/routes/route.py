"""What a route is: one row of the table that router, OpenAPI document, docs and tests are made from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

if TYPE_CHECKING:
    from mold_http.service import Service

__all__ = ["ERRORS", "EVENTS", "EVENT_STREAM", "Answer", "Handler", "Method", "Query", "Route", "Tier"]

Method = Literal["GET", "POST", "PUT", "DELETE"]

# Which of the two rate limits a route counts against.
Tier = Literal["generation", "read"]

Handler: TypeAlias = "Callable[..., Awaitable[None]]"  # (service, req, resp, **the names in the path)

EVENT_STREAM = "text/event-stream"

# The events of most streams; a tuple of names is what the content of an event stream is described by.
EVENTS = ("progress", "complete", "error")

# Code of the envelope → HTTP status and what it means.
ERRORS: dict[str, tuple[int, str]] = {
    "BAD_REQUEST": (400, "The body or a parameter cannot be read at all."),
    "UNKNOWN_MODEL": (400, "No plugin knows the model."),
    "UNAUTHORIZED": (401, "The key is missing or unknown."),
    "FORBIDDEN": (403, "Not from there: another site's page, or what is allowed only on this machine or with a key."),
    "MODEL_NOT_FOUND": (404, "The model or the file is known, and not here."),
    "NOT_FOUND": (404, "There is no such thing."),
    "JOB_NOT_FOUND": (404, "There is no such job, or it is no longer kept."),
    "RESULT_NOT_FOUND": (404, "The gallery has nothing of that name."),
    "METHOD_NOT_ALLOWED": (405, "The path has no such method; Allow names those it has."),
    "CONFLICT": (409, "It does not fit the state of what it is about."),
    "CANCELLED": (409, "The job was cancelled."),
    "BODY_TOO_LARGE": (413, "The body is over 64 MiB."),
    "UNSUPPORTED_MEDIA_TYPE": (415, "The body is not of the type that the route reads."),
    "VALIDATION_ERROR": (422, "A field has a value that cannot be used; the message names its path."),
    "RATE_LIMITED": (429, "Too many requests; Retry-After says how many seconds to wait."),
    "INTERNAL_ERROR": (500, "Something went wrong; the log has it under the X-Request-ID."),
    "INFERENCE_ERROR": (500, "The model failed; the log has the reason."),
    "WORKER_DIED": (500, "The process that ran the job died."),
    "CHECKPOINT_ERROR": (500, "A file of the model is damaged."),
    "OUTPUT_ERROR": (500, "A result could not be written."),
    "PLUGIN_ERROR": (500, "The plugin that would do it is missing or failed."),
    "SETTINGS_ERROR": (500, "A setting that the work needs has a value that cannot be used."),
    "CHAIN_FAILED": (502, "A clip of the chain failed."),
    "DOWNLOAD_ERROR": (502, "A file of the model could not be fetched."),
    "QUEUE_FULL": (503, "The queue is full; Retry-After says when to try again."),
    "INSUFFICIENT_MEMORY": (503, "The model does not fit in memory."),
    "INSUFFICIENT_STORAGE": (507, "The disk has no room for the result of a job that is kept."),
}

# What may go wrong wherever a model runs.
_OF_WORK = frozenset({"WORKER_DIED", "CHECKPOINT_ERROR", "OUTPUT_ERROR", "PLUGIN_ERROR", "SETTINGS_ERROR"})


@attrs.frozen(kw_only=True)
class Query:
    """A parameter of the query string or a request header. `type` is what JSON Schema is made from."""

    name: str
    doc: str
    type: Any = str
    default: Any = None
    place: Literal["query", "header"] = "query"
    minimum: int | None = None
    maximum: int | None = None
    required: bool = False


@attrs.frozen(kw_only=True)
class Answer:
    """One successful answer.

    `content` maps content types to what they carry: a type, words for raw bytes, the names of events, a JSON Schema.
    """

    status: int = 200
    doc: str
    content: Mapping[str, Any] = attrs.Factory(dict)
    headers: Mapping[str, str] = attrs.Factory(dict)


@attrs.frozen(kw_only=True, eq=False)
class Route:
    """One row of the table.

    `path` has names in braces; `rest` is the one of them that may hold slashes. `request` is the wire class of a JSON
    body, `body_type` names what else is read. `errors` are codes of `ERRORS` beyond those every route may answer.
    """

    method: Method
    path: str
    name: str
    summary: str
    handler: Handler
    tag: str
    doc: str = ""
    request: type | None = None
    request_optional: bool = False
    body_type: str = "application/json"
    parameters: tuple[Query, ...] = ()
    path_docs: Mapping[str, str] = attrs.Factory(dict)
    rest: str | None = None
    answers: tuple[Answer, ...]
    errors: tuple[str, ...] = ()
    public: bool = False
    listed: bool = True  # in the OpenAPI document and the docs
    tier: Tier | None = "read"
    example: str = ""

    @property
    def all_errors(self) -> tuple[str, ...]:
        """Every error code the route may answer, in the order of `ERRORS`."""
        codes = {"BAD_REQUEST", "FORBIDDEN", "INTERNAL_ERROR", *self.errors}
        if "INFERENCE_ERROR" in codes:
            codes |= _OF_WORK
        if not self.public:
            codes.add("UNAUTHORIZED")
        if self.tier is not None:
            codes.add("RATE_LIMITED")
        if self.request is not None:
            codes |= {"BODY_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE", "VALIDATION_ERROR"}
        if self.parameters:
            codes.add("VALIDATION_ERROR")
        return tuple(code for code in ERRORS if code in codes)

    @property
    def falcon_path(self) -> str:
        """The path as Falcon's router wants it."""
        return self.path.replace(f"{{{self.rest}}}", f"{{{self.rest}:path}}") if self.rest else self.path


def handled(service: Service, route: Route) -> Callable[..., Awaitable[None]]:
    """Return a responder for Falcon that runs the route's handler; to HEAD it answers without the body."""

    async def respond(req: Any, resp: Any, **names: Any) -> None:
        await route.handler(service, req, resp, **names)
        if req.method == "HEAD" and resp.stream is not None:
            await resp.stream.close()
            resp.stream = _Unread()

    return respond


class _Unread:
    """Stands for a body of unknown length that Falcon does not send; without it Falcon would say that there is none."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        return
        yield b""
