"""The entry point: adds the routes when a server starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mold_core import hookimpl

if TYPE_CHECKING:
    from mold_http import Route

__all__ = ["mold_routes"]

MOLD_HOOK_API = (2, 2)


@hookimpl
def mold_routes() -> tuple[Route, ...]:
    """Return the routes of one server."""
    from mold_a1111.routes import routes

    return routes()
