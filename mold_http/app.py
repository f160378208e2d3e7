"""The ASGI app: the table of routes around an engine, behind the guards."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import falcon
import falcon.asgi

from mold_core.engine import Engine
from mold_core.gallery import Gallery
from mold_core.jobs.kinds import JOB_KINDS
from mold_core.settings import Settings
from mold_http.disconnect import ODD_METHOD, App, watching
from mold_http.errors import NoSuchMethodError, add_error_handlers
from mold_http.guard.authorization import Authorization
from mold_http.guard.bodies import refuse_odd_heads
from mold_http.guard.cors import Cors
from mold_http.guard.hosts import HostRules
from mold_http.guard.keys import KeyGuard, Keys, read_keys
from mold_http.guard.proxies import Proxies, behind
from mold_http.guard.rates import RateLimits, count, parse_rate
from mold_http.metrics import Metrics
from mold_http.openai.errors import openai_error, openai_headers
from mold_http.plugin_routes import all_routes
from mold_http.request_logging import Observer
from mold_http.resources import Resources
from mold_http.routes.route import Route, Tier
from mold_http.routes.table import PUBLIC_PATHS
from mold_http.service import Service
from mold_http.webhooks import Webhooks

__all__ = ["app_of", "create_app", "create_service"]

log = logging.getLogger("mold.http")


def create_app(engine: Engine, settings: Settings, gallery: Gallery | None = None) -> App:
    """Return the ASGI app for `engine` and the results in `gallery`.

    Raises SettingsError for invalid keys, rates and origins.
    """
    return app_of(create_service(engine, settings, gallery))


def create_service(engine: Engine, settings: Settings, gallery: Gallery | None = None) -> Service:
    """Return the shared state of the handlers, for servers that also stop it."""
    return Service(
        engine=engine,
        gallery=gallery,
        settings=settings,
        routes=all_routes(engine.plugins),
        keys=Keys(read_keys(settings.api_key)),
        metrics=Metrics(engine),
        resources=Resources(engine),
        webhooks=Webhooks(engine, settings.webhook_hosts or ()),
        rates=RateLimits(parse_rate(settings.rate_limit, settings.rate_limit_burst)) if settings.rate_limit else None,
    )


def app_of(service: Service) -> App:
    """Return the ASGI app around a service; requests to the port for Ollama's clients get an app of their routes."""
    settings = service.settings
    main = _app_with(service, service.routes, settings.port, _Lifespan(service))
    app = main if settings.ollama_port is None else _by_port(main, settings.ollama_port, service)
    return behind(Proxies(settings.trusted_proxies or ()), watching(app))


def _app_with(service: Service, routes: Sequence[Route], port: int, *more: Any) -> Any:
    settings = service.settings
    hosts = HostRules(
        bind=settings.bind,
        port=port,
        keyed=service.keys.required,
        allowed=settings.allowed_hosts or (),
        cors_origin=settings.cors_origin,
    )
    middleware: list[Any] = [Observer(service.metrics)]
    if settings.cors_origin:
        middleware.append(Cors(settings.cors_origin))
    guard = _Guard(service, hosts, routes)
    middleware += [guard, *more]
    app = falcon.asgi.App(middleware=middleware)
    app.req_options.auto_parse_form_urlencoded = False
    for path, resource in _resources(service, routes).items():
        app.add_route(path, resource)
    app.add_sink(guard.no_route, "/")
    add_error_handlers(app)
    return app


def _by_port(main: Any, port: int, service: Service) -> Any:
    """Return an app that passes requests to `port` to Ollama's routes, and all others to `main`."""
    from mold_http.routes import ollama

    other = _app_with(service, ollama.ROUTES, port)

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        reached = (scope.get("server") or ("", None))[1]
        await (other if scope["type"] == "http" and reached == port else main)(scope, receive, send)

    return app


async def _reconcile(gallery: Gallery, warm: bool) -> None:
    stop = threading.Event()
    all_or_newest: int | None = None
    problem = ""
    try:
        while True:
            try:
                await asyncio.to_thread(gallery.reconcile)
                problem = ""
                if warm:
                    await asyncio.to_thread(gallery.warm, stop, all_or_newest)
                    all_or_newest = _WARMED_AGAIN
            except Exception as error:
                if str(error) != problem:  # do not log the same error every 30 seconds
                    problem = str(error)
                    log.exception("the gallery could not be synchronized with its folders")
            await asyncio.sleep(_RECONCILE_S)
    finally:
        stop.set()


class _Resource:
    """The routes of one path in Falcon's form: a method ``on_get`` for GET."""

    def __init__(self) -> None:
        self.tiers: dict[str, Tier | None] = {}

    def add(self, service: Service, route: Route) -> None:
        """Handle a method with its route, and HEAD with that of GET."""
        for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
            setattr(self, f"on_{method.lower()}", _handled(service, route))
            self.tiers[method] = route.tier


def _resources(service: Service, routes: Sequence[Route]) -> dict[str, _Resource]:
    resources: dict[str, _Resource] = {}
    for route in routes:
        resources.setdefault(route.falcon_path, _Resource()).add(service, route)
    return resources


class _Guard:
    """Refuses, in this order: wrong hosts, malformed requests, missing keys, exceeded rates."""

    def __init__(self, service: Service, hosts: HostRules, routes: Sequence[Route]) -> None:
        self._keys = KeyGuard(service.keys)
        self._authorization = Authorization(routes)
        self._hosts = hosts
        self._service = service

    async def process_request(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Check the head of the request."""
        if req.path.startswith("/v1/"):
            req.context.error_shape, req.context.error_headers = openai_error, openai_headers
        try:
            refuse_odd_heads(req)
            self._hosts.check(req)
            self._check_key(req)
        except Exception:
            resp.set_header("Connection", "close")  # the body of a refused request is not read
            raise

    async def process_resource(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: object, names: dict[str, Any]
    ) -> None:
        """Count the request against the rate of its route; an unknown method counts as a read."""
        assert isinstance(resource, _Resource)
        if odd_method := req.scope.get(ODD_METHOD):
            allowed = ", ".join(sorted({*resource.tiers, "OPTIONS"}))
            raise NoSuchMethodError(f"this path does not support {odd_method}", headers={"Allow": allowed})
        tier = resource.tiers.get(req.method, "read")
        if tier is not None and req.path not in PUBLIC_PATHS:
            count(self._service.rates, tier, req.remote_addr)

    async def no_route(self, req: falcon.asgi.Request, resp: falcon.asgi.Response | None, **names: Any) -> None:
        """Count a request for an unknown path as a read, and refuse it."""
        count(self._service.rates, "read", req.remote_addr)
        raise falcon.HTTPNotFound

    def _check_key(self, req: falcon.asgi.Request) -> None:
        if req.path in PUBLIC_PATHS:
            return
        key = req.get_header("X-Api-Key")
        if key is None:
            key = self._authorization.key_of(req.path, req.get_header("Authorization"))
        self._keys.check(key, req.remote_addr)


# Interval of checks for files that were added to the gallery's folder or removed from it.
_RECONCILE_S = 30.0
# Number of newest results that are then checked for thumbnails; the first check covers all.
_WARMED_AGAIN = 200


class _Lifespan:
    """Starts and stops with the server."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._reconciling: asyncio.Task[None] | None = None

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """Start workers and webhooks, resume pulls of a previous server, and keep the gallery synchronized."""
        await asyncio.to_thread(self._service.engine.start)
        self._service.media.warm()
        self._service.webhooks.start()
        if self._service.gallery is not None:
            warm = self._service.settings.thumbnail_warmup
            self._reconciling = asyncio.create_task(_reconcile(self._service.gallery, warm))
        for job in self._service.engine.jobs():
            if JOB_KINDS[job.kind].is_download:
                self._service.downloads.follow(job)

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """End every stream; the owner of the engine closes it."""
        if self._reconciling is not None:
            self._reconciling.cancel()
        self._service.feeds.close(patient_too=True)
        await self._service.mcp.close()
        await asyncio.to_thread(self._service.media.close)
        await asyncio.to_thread(self._service.webhooks.close)
        self._service.metrics.close()


def _handled(service: Service, route: Route) -> Callable[..., Awaitable[None]]:
    """Return a Falcon responder that runs the route's handler; it responds to HEAD without a body."""

    async def respond(req: Any, resp: Any, **names: Any) -> None:
        await route.handler(service, req, resp, **names)
        if req.method == "HEAD" and resp.stream is not None:
            await resp.stream.close()
            resp.stream = _Unread()

    return respond


class _Unread:
    """A body of unknown length that Falcon does not send; without it Falcon would set Content-Length to 0."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        return
        yield b""
