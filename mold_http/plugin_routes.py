"""The routes of plugins: added to the table of the server, unless they conflict with others."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from falcon.routing import CompiledRouter

from mold_core.plugins import Plugins
from mold_http.openapi import classes_of
from mold_http.routes.route import ERRORS, Route
from mold_http.routes.table import PUBLIC_PATHS, ROUTES

__all__ = ["all_routes", "check_routes"]

log = logging.getLogger("mold.http")


def all_routes(plugins: Plugins) -> tuple[Route, ...]:
    """Return the routes of mold and of the plugins. A route that cannot be added is logged with its plugin."""
    table = _Table(ROUTES)
    for plugin, provided in plugins.provided("mold_routes"):
        if isinstance(provided, Exception):
            log.error("mold_routes of the plugin %s failed", plugin, exc_info=provided)
            continue
        for route in provided:
            problem = table.add(route, plugin)
            if problem is not None:
                log.error("a route of the plugin %s is left out: %s", plugin, problem)
    return tuple(table.owners)


def check_routes(provided: Iterable[object]) -> None:
    """Raise AssertionError with every route that a server would leave out; for tests of plugins."""
    table = _Table(ROUTES)
    problems = [problem for route in provided if (problem := table.add(route, "this plugin")) is not None]
    assert not problems, "; ".join(problems)


class _Table:
    """Routes that do not conflict, with their owners."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.owners: dict[Route, str] = {}
        self._router = CompiledRouter()
        self._paths: set[str] = set()
        self._classes: dict[str, type] = {}
        for route in routes:
            self._put(route, "mold")

    def add(self, route: object, owner: str) -> str | None:
        """Add a route, or return why it cannot be added."""
        if not isinstance(route, Route):
            return f"mold_routes must return mold_http.Route, not {type(route).__name__}"
        problem = _fault(route) or self._conflict(route)
        if problem is None:
            try:
                self._put(route, owner)
            except ValueError as error:
                problem = str(error)
        return None if problem is None else f"{route.method} {route.path}{problem}"

    def _put(self, route: Route, owner: str) -> None:
        """Add a route. Raises ValueError if the router cannot have its path beside the others."""
        if route.falcon_path not in self._paths:
            try:
                self._router.add_route(route.falcon_path, self)
            except ValueError as error:
                raise ValueError(f": {error}") from None
        self._paths.add(route.falcon_path)
        self._classes |= {cls.__name__: cls for cls in classes_of(route)}
        self.owners[route] = owner

    def _conflict(self, route: Route) -> str | None:
        for other, owner in self.owners.items():
            if (other.method, _shape(other.path)) == (route.method, _shape(route.path)):
                return f" is also a route of {owner}, which is used"
            if other.name == route.name:
                return f": the name {route.name} is that of {other.method} {other.path} of {owner}"
        for cls in classes_of(route):
            if self._classes.get(cls.__name__, cls) is not cls:
                return f": another wire class is called {cls.__name__}"
        return None


def _fault(route: Route) -> str | None:
    """Return what is wrong with a route by itself."""
    if not route.path.startswith("/"):
        return ": a path must start with /"
    if route.public or route.tier is None:
        return ": a route of a plugin requires a key and has a rate limit"
    if route.path in PUBLIC_PATHS:  # the guard knows these by their path alone
        return ": this path needs no key, and a route of a plugin does"
    unknown = sorted(set(route.errors) - ERRORS.keys())
    return f": unknown error codes: {', '.join(unknown)}" if unknown else None


def _shape(path: str) -> str:
    return re.sub(r"{\w+}", "{}", path)
