"""The Falcon app: routes, errors and everything that refuses a request before it reaches the engine."""

from __future__ import annotations

import logging
import re
import uuid
from typing import Any

import falcon
import falcon.asgi

from mold_core.engine import Engine
from mold_core.errors import MoldError
from mold_core.settings import Settings
from mold_http.disconnect import App, Gone, watching
from mold_http.generate import GenerateResource, GenerateStreamResource
from mold_http.models import HealthResource, ModelsResource, StatusResource

__all__ = ["create_app"]

log = logging.getLogger("mold.http")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def create_app(engine: Engine, settings: Settings) -> App:
    """Return the ASGI app that serves `engine`."""
    middleware: list[Any] = [_RequestId(), _LocalOnly(settings.port), _Closing(engine)]
    app = falcon.asgi.App(middleware=middleware)
    app.add_route("/health", HealthResource())
    app.add_route("/api/status", StatusResource(engine))
    app.add_route("/api/models", ModelsResource(engine))
    app.add_route("/api/generate", GenerateResource(engine))
    app.add_route("/api/generate/stream", GenerateStreamResource(engine))
    app.add_error_handler(Exception, _answer_unexpected)
    app.add_error_handler(falcon.HTTPError, _answer_http_error)
    app.add_error_handler(MoldError, _answer_mold_error)
    app.add_error_handler(Gone, _answer_nobody)
    return watching(app)


class _RequestId:
    """Every answer carries X-Request-ID: the client's where it is harmless, else a new one."""

    async def process_request(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        given = req.get_header("X-Request-ID") or ""
        resp.set_header("X-Request-ID", given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4()))


class _LocalOnly:
    """A page on the internet may make a browser call this server: only requests meant for it are answered."""

    def __init__(self, port: int) -> None:
        names = ("localhost", "127.0.0.1", "[::1]")
        self._hosts = frozenset({*names, *(f"{name}:{port}" for name in names)})
        self._origins = frozenset(f"http://{host}" for host in self._hosts)

    async def process_request(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        if (req.get_header("Host") or "").lower() not in self._hosts:
            raise falcon.HTTPForbidden(description="the Host header must name this machine: localhost or 127.0.0.1")
        if req.method in ("GET", "HEAD"):
            return
        origin = req.get_header("Origin")
        if (origin is not None and origin not in self._origins) or req.get_header("Sec-Fetch-Site") == "cross-site":
            raise falcon.HTTPForbidden(description="pages of other sites may not use this server")


class _Closing:
    """Closes the engine with the server: queued jobs are cancelled, the one under way ends at its next step."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        self._engine.close()


async def _answer_mold_error(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: MoldError, params: dict[str, Any]
) -> None:
    resp.status = error.http_status
    resp.media = error.to_json()
    if error.http_status == 503:
        resp.set_header("Retry-After", "1")


async def _answer_http_error(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: falcon.HTTPError, params: dict[str, Any]
) -> None:
    resp.status = error.status
    resp.set_headers(dict(error.headers or {}))
    code = (error.title or "error").upper().replace(" ", "_")
    code = re.sub(r"^\d+_", "", code)
    resp.media = {"error": error.description or error.title, "code": code}


async def _answer_nobody(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Gone, params: dict[str, Any]
) -> None:
    resp.status = 499


async def _answer_unexpected(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Exception, params: dict[str, Any]
) -> None:
    request_id = resp.get_header("X-Request-ID")
    log.error("request %s failed", request_id, exc_info=error)
    resp.status = 500
    resp.media = {"error": f"something went wrong here; the log has it under {request_id}", "code": "INTERNAL_ERROR"}
