"""One row of the table of routes, the source of the router, the OpenAPI document, the docs and the tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeAlias

import attrs

__all__ = ["ERRORS", "EVENTS", "EVENT_STREAM", "Handler", "Method", "Query", "ResponseSpec", "Route", "Scheme", "Tier"]

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

# Alternatives to X-Api-Key: a bearer token, or the password of basic authentication.
Scheme = Literal["bearer", "basic"]

# The two rate limits.
Tier = Literal["generation", "read"]

Handler: TypeAlias = "Callable[..., Awaitable[None]]"  # (service, req, resp, **path parameters)

EVENT_STREAM = "text/event-stream"

# The events of most streams. A tuple of names describes the content of an event stream.
EVENTS = ("progress", "complete", "error")

# Error code → HTTP status and meaning.
ERRORS: dict[str, tuple[int, str]] = {
    "BAD_REQUEST": (400, "The body or a parameter cannot be parsed."),
    "UNKNOWN_MODEL": (400, "No plugin provides the model."),
    "UNAUTHORIZED": (401, "The API key is missing or unknown."),
    "FORBIDDEN": (
        403,
        "Not allowed for this client: a cross-origin request, or one that needs a key or a client on this machine.",
    ),
    "MODEL_NOT_FOUND": (404, "The model or file is known but not installed."),
    "NOT_FOUND": (404, "The path or object does not exist."),
    "JOB_NOT_FOUND": (404, "The job does not exist, or is no longer kept."),
    "RESULT_NOT_FOUND": (404, "The gallery has no result of that name."),
    "METHOD_NOT_ALLOWED": (405, "The path does not support the method; Allow lists those it supports."),
    "CONFLICT": (409, "The request conflicts with the current state."),
    "CANCELLED": (409, "The job was cancelled."),
    "BODY_TOO_LARGE": (413, "The body exceeds 64 MiB."),
    "UNSUPPORTED_MEDIA_TYPE": (415, "The route does not accept this content type."),
    "VALIDATION_ERROR": (422, "A field has an invalid value; the message gives its path."),
    "RATE_LIMITED": (429, "Too many requests; Retry-After gives the seconds to wait."),
    "INTERNAL_ERROR": (500, "Unexpected error; the log has details under the X-Request-ID."),
    "INFERENCE_ERROR": (500, "The model failed; the log has details."),
    "WORKER_DIED": (500, "The worker process of the job died."),
    "CHECKPOINT_ERROR": (500, "A model file is damaged."),
    "OUTPUT_ERROR": (500, "A result could not be written."),
    "PLUGIN_ERROR": (500, "The required plugin is missing or failed."),
    "SETTINGS_ERROR": (500, "A required setting has an invalid value."),
    "CHAIN_FAILED": (502, "A clip of the chain failed."),
    "DOWNLOAD_ERROR": (502, "A model file could not be downloaded."),
    "QUEUE_FULL": (503, "The queue is full; Retry-After gives the seconds to wait."),
    "INSUFFICIENT_MEMORY": (503, "The model does not fit into memory."),
    "INSUFFICIENT_STORAGE": (507, "The disk has no space for the result of a durable job."),
}

# Errors of every route that runs a model.
_OF_WORK = frozenset({"WORKER_DIED", "CHECKPOINT_ERROR", "OUTPUT_ERROR", "PLUGIN_ERROR", "SETTINGS_ERROR"})


@attrs.frozen(kw_only=True)
class Query:
    """A query parameter or request header. `type` determines its JSON Schema."""

    name: str
    doc: str
    type: Any = str
    default: Any = None
    place: Literal["query", "header"] = "query"
    minimum: int | None = None
    maximum: int | None = None
    required: bool = False


@attrs.frozen(kw_only=True)
class ResponseSpec:
    """One successful response.

    `content` maps content types to their content: a type, a description of raw bytes, names of events, a JSON Schema.
    """

    status: int = 200
    doc: str
    content: Mapping[str, Any] = attrs.Factory(dict)
    headers: Mapping[str, str] = attrs.Factory(dict)


@attrs.frozen(kw_only=True, eq=False)
class Route:
    """One row of the table.

    `path` has parameters in braces; `rest` is the one that may contain slashes. `request` is the wire class of the
    body, `body_type` its content type. `scheme` is the alternative to the key in `X-Api-Key`. `errors` are the codes of
    `ERRORS` in addition to those of every route.
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
    responses: tuple[ResponseSpec, ...]
    errors: tuple[str, ...] = ()
    public: bool = False
    scheme: Scheme | None = None
    listed: bool = True  # in the OpenAPI document and the docs
    tier: Tier | None = "read"
    example: str = ""

    @property
    def all_errors(self) -> tuple[str, ...]:
        """Every error code the route may return, in the order of `ERRORS`."""
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
    def key_scheme(self) -> Scheme | None:
        """The alternative to the key in X-Api-Key; under /v1 always a bearer token."""
        return "bearer" if self.path.startswith("/v1/") else self.scheme

    @property
    def falcon_path(self) -> str:
        """The path in the syntax of Falcon's router."""
        return self.path.replace(f"{{{self.rest}}}", f"{{{self.rest}:path}}") if self.rest else self.path
