"""The errors of the server, and the responses for all errors.

    MoldError
    ├── UnauthorizedError     UNAUTHORIZED           401   no key, or an unknown one
    ├── ForbiddenError        FORBIDDEN              403   a cross-origin request, or one for local clients only
    ├── NotFoundError         NOT_FOUND              404   no such path, job or download
    ├── NoSuchMethodError     METHOD_NOT_ALLOWED     405   with Allow
    ├── ConflictError         CONFLICT               409   the request conflicts with the current state
    ├── TooLargeError         BODY_TOO_LARGE         413
    ├── MediaTypeError        UNSUPPORTED_MEDIA_TYPE 415   the route does not accept the type of the body
    └── RateLimitedError      RATE_LIMITED           429   with Retry-After

All other errors are those of `mold_core.errors`. The body is always ``{"error": MESSAGE, "code": CODE}``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import falcon
import falcon.asgi

from mold_core.errors import (
    CancelledError,
    DownloadError,
    InsufficientMemoryError,
    InsufficientStorageError,
    MalformedError,
    MoldError,
    QueueFullError,
)
from mold_http.disconnect import ClientDisconnected

__all__ = [
    "ConflictError",
    "ForbiddenError",
    "MediaTypeError",
    "NoSuchMethodError",
    "NotFoundError",
    "RateLimitedError",
    "TooLargeError",
    "UnauthorizedError",
    "add_error_handlers",
    "headers_of",
    "log_failure",
]

log = logging.getLogger("mold.http")


class _Refusal(MoldError):
    """An error whose response may have headers."""

    def __init__(self, message: str, *args: object, headers: Mapping[str, str] | None = None, **about: Any) -> None:
        super().__init__(message, *args, **about)
        self.headers = dict(headers or {})


class UnauthorizedError(_Refusal):
    """A request without a known key."""

    code = "UNAUTHORIZED"
    http_status = 401


class ForbiddenError(_Refusal):
    """A request that this client may not send."""

    code = "FORBIDDEN"
    http_status = 403


class NotFoundError(_Refusal):
    """A path, job or download that does not exist."""

    code = "NOT_FOUND"
    http_status = 404


class NoSuchMethodError(_Refusal):
    """A method that the path does not support."""

    code = "METHOD_NOT_ALLOWED"
    http_status = 405


class ConflictError(_Refusal):
    """A request that conflicts with the current state."""

    code = "CONFLICT"
    http_status = 409


class TooLargeError(_Refusal):
    """A body beyond the limit."""

    code = "BODY_TOO_LARGE"
    http_status = 413


class MediaTypeError(_Refusal):
    """A body of a type that the route does not accept."""

    code = "UNSUPPORTED_MEDIA_TYPE"
    http_status = 415


class RateLimitedError(_Refusal):
    """A client that exceeds its rate limit."""

    code = "RATE_LIMITED"
    http_status = 429


def headers_of(error: MoldError) -> dict[str, str]:
    """Return the headers of an error."""
    if error.http_status == 503:
        return {"Retry-After": "1"}
    return error.headers if isinstance(error, _Refusal) else {}


def log_failure(what: str, error: MoldError, **extra: object) -> None:
    """Log a failure; with the traceback, unless the message is sufficient."""
    known = isinstance(error, DownloadError | InsufficientMemoryError | InsufficientStorageError | QueueFullError)
    log.error("%s failed: %s", what, error, exc_info=None if known else error.__cause__ or error, extra=extra)


def add_error_handlers(app: falcon.asgi.App[Any, Any]) -> None:
    """Make the app respond to every error with a JSON error."""
    app.add_error_handler(Exception, _respond_unexpected)
    app.add_error_handler(falcon.HTTPError, _respond_http_error)
    app.add_error_handler(MoldError, _respond_mold_error)
    app.add_error_handler(ClientDisconnected, _respond_disconnected)


async def _respond_mold_error(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: MoldError, params: dict[str, Any]
) -> None:
    if error.http_status >= 500 and not isinstance(error, CancelledError):
        log_failure(f"{req.method} {req.path}", error)
    shape = getattr(req.context, "error_shape", None)
    status, body = shape(error) if shape else (error.http_status, error.to_json())
    resp.status = status
    resp.content_type = "application/json"
    resp.text = json.dumps(body)
    more = getattr(req.context, "error_headers", None)
    resp.set_headers({**headers_of(error), **(more(error) if more else {})})


async def _respond_http_error(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: falcon.HTTPError, params: dict[str, Any]
) -> None:
    await _respond_mold_error(req, resp, _translated(req, error), params)


def _translated(req: falcon.asgi.Request, error: falcon.HTTPError) -> MoldError:
    """Return an error of Falcon as an error of mold."""
    if isinstance(error, falcon.HTTPMethodNotAllowed):
        headers = {name: value for name, value in dict(error.headers or {}).items() if name.lower() == "allow"}
        return NoSuchMethodError(f"this path does not support {req.method}", headers=headers)
    if isinstance(error, falcon.HTTPNotFound):
        return NotFoundError("there is nothing at this path", hint="/api/docs lists all paths")
    return MalformedError(error.description or error.title or "the request cannot be read")


async def _respond_disconnected(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: ClientDisconnected, params: dict[str, Any]
) -> None:
    resp.status = 499


async def _respond_unexpected(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Exception, params: dict[str, Any]
) -> None:
    request_id = resp.get_header("X-Request-ID")
    unexpected = MoldError(f"unexpected error; the log has details under {request_id}")
    unexpected.__cause__ = error
    await _respond_mold_error(req, resp, unexpected, params)
