"""The routes of plugins: added to the table of the server, unless they conflict with others."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from falcon.routing import CompiledRouter

from mold_core.plugins import Plugins
from mold_http.openapi import document
from mold_http.routes.route import ERRORS, Route
from mold_http.routes.table import ROUTES

__all__ = ["all_routes", "check_routes"]

log = logging.getLogger("mold.http")


def all_routes(plugins: Plugins) -> tuple[Route, ...]:
    """Return the routes of mold and of the plugins. A route that cannot be added is logged with its plugin."""
    routes = list(ROUTES)
    owners = dict.fromkeys(ROUTES, "mold")
    for plugin, provided in plugins.provided("mold_routes"):
        if isinstance(provided, Exception):
            log.error("mold_routes of the plugin %s failed", plugin, exc_info=provided)
            continue
        for route in provided:
            problem = _conflict(route, routes, owners)
            if problem is None:
                routes.append(route)
                owners[route] = plugin
            else:
                log.error("a route of the plugin %s is left out: %s", plugin, problem)
    return tuple(routes)


def check_routes(provided: Iterable[object]) -> None:
    """Raise AssertionError with every route that a server would leave out; for tests of plugins."""
    routes, owners, problems = list(ROUTES), dict.fromkeys(ROUTES, "mold"), []
    for route in provided:
        problem = _conflict(route, routes, owners)
        if problem is not None:
            problems.append(problem)
        elif isinstance(route, Route):
            routes.append(route)
            owners[route] = "this plugin"
    assert not problems, "; ".join(problems)


def _conflict(route: object, routes: Iterable[Route], owners: dict[Route, str]) -> str | None:
    """Return why a route cannot be added to `routes`; None if it can."""
    if not isinstance(route, Route):
        return f"mold_routes must return mold_http.Route, not {type(route).__name__}"
    label = f"{route.method} {route.path}"
    if not route.path.startswith("/"):
        return f"{label}: a path must start with /"
    if route.public or route.tier is None:
        return f"{label}: a route of a plugin requires a key and has a rate limit"
    unknown = sorted(set(route.errors) - ERRORS.keys())
    if unknown:
        return f"{label}: unknown error codes: {', '.join(unknown)}"
    for other in routes:
        if (other.method, _shape(other.path)) == (route.method, _shape(route.path)):
            return f"{label} is also a route of {owners[other]}, which is used"
        if other.name == route.name:
            return f"{label}: the name {route.name} is that of {other.method} {other.path} of {owners[other]}"
    return _router_conflict(route, routes) or _document_conflict(route, routes)


def _shape(path: str) -> str:
    return re.sub(r"{\w+}", "{}", path)


def _router_conflict(route: Route, routes: Iterable[Route]) -> str | None:
    """Return why Falcon's router cannot have a path beside the others."""
    router = CompiledRouter()
    for path in dict.fromkeys(other.falcon_path for other in routes):
        router.add_route(path, _Nothing())
    try:
        if route.falcon_path not in {other.falcon_path for other in routes}:
            router.add_route(route.falcon_path, _Nothing())
    except ValueError as error:
        return f"{route.method} {route.path}: {error}"
    return None


class _Nothing:
    """A resource without methods."""


def _document_conflict(route: Route, routes: Iterable[Route]) -> str | None:
    """Return why a route cannot be described beside the others: a wire class with the name of another."""
    if not route.listed:
        return None
    try:
        document([other for other in routes if other.listed] + [route])
    except Exception as error:
        return f"{route.method} {route.path} cannot be described: {error}"
    return None
