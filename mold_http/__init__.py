"""mold over HTTP: a Falcon app around the engine, found as a plugin. These are the names for plugins with routes.

`mold_http.app.create_app(engine, settings)` returns the app. Nothing is imported before it is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mold_http.guard.bodies import query_of, read_json
    from mold_http.jobs import result_of, submit
    from mold_http.plugin_routes import check_routes
    from mold_http.responses import JSON, json_of, respond_json
    from mold_http.routes.route import Query, ResponseSpec, Route
    from mold_http.service import Service

__all__ = [
    "JSON",
    "Query",
    "ResponseSpec",
    "Route",
    "Service",
    "check_routes",
    "json_of",
    "query_of",
    "read_json",
    "respond_json",
    "result_of",
    "submit",
]

_HOMES = {
    "mold_http.guard.bodies": ("query_of", "read_json"),
    "mold_http.jobs": ("result_of", "submit"),
    "mold_http.plugin_routes": ("check_routes",),
    "mold_http.responses": ("JSON", "respond_json", "json_of"),
    "mold_http.routes.route": ("Query", "ResponseSpec", "Route"),
    "mold_http.service": ("Service",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'mold_http' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
