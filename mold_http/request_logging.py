"""Request ids and logs: every response and every log line carries the id of its request."""

from __future__ import annotations

import logging
import re
import sys
import time
import uuid
from contextvars import ContextVar
from typing import Any, Literal

import falcon.asgi

from mold_core.text import LogLines, json_text, trace_of, visible
from mold_http.log_limits import EqualLines
from mold_http.metrics import Metrics

__all__ = ["JsonLines", "Observer", "configure_logs", "current_request_id"]

LogFormat = Literal["text", "json"]

access = logging.getLogger("mold.access")

_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_REQUEST_ID: ContextVar[str | None] = ContextVar("mold_request_id", default=None)

# Attributes of every log record; all others come from `extra` and are written.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "request_id",
    "color_message",
}


def current_request_id() -> str | None:
    """Return the id of the request of this task."""
    return _REQUEST_ID.get()


class Observer:
    """The outermost middleware: assigns an id to each request, and counts and logs its response."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def process_request(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Choose the id: the client's if it is safe, else a new one."""
        client_id = req.get_header("X-Request-ID")
        # NOTE: a line break in a header would drop the connection; only safe ids are sent back.
        request_id = client_id if client_id and _SAFE_ID.fullmatch(client_id) else str(uuid.uuid4())
        _REQUEST_ID.set(request_id)
        resp.set_header("X-Request-ID", request_id)
        req.context.began = time.perf_counter()

    async def process_response(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: object, succeeded: bool
    ) -> None:
        """Count the response, by the template of its route, and log it."""
        elapsed_s = time.perf_counter() - req.context.began
        self._metrics.answered(req.method, req.uri_template, resp.status_code, elapsed_s)
        if access.isEnabledFor(logging.INFO):
            access.info(
                "%s %s %d",
                req.method,
                req.path,
                resp.status_code,
                extra={"elapsed_ms": round(elapsed_s * 1000, 1), "client": req.remote_addr},
            )


class _RequestIdFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "request_id"):
            record.request_id = _REQUEST_ID.get()
        return True


class JsonLines(logging.Formatter):
    """Formats log records as one JSON object per line: time, level, logger, message, request id and extras."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line of JSON."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if getattr(record, "request_id", None):
            line["request_id"] = record.request_id  # type: ignore[attr-defined]
        line.update({name: value for name, value in vars(record).items() if name not in _STANDARD})
        if trace := trace_of(record):
            line["exception"] = "\n".join(trace)
        return json_text(line)


class _TextLines(LogLines):
    def about(self, record: logging.LogRecord) -> str:
        extras = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        request_id = getattr(record, "request_id", None)
        if request_id:
            extras["request_id"] = request_id
        return visible("".join(f" {name}={value}" for name, value in extras.items()))


def configure_logs(level: str, format: LogFormat) -> None:
    """Send the logs of this process to standard error, as text or JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_RequestIdFilter())
    handler.addFilter(EqualLines())
    text = _TextLines("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if format == "json" else text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
