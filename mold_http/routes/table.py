"""The table of all routes."""

from __future__ import annotations

from mold_http.routes import (
    capabilities,
    chain,
    disk_usage,
    documents,
    downloads,
    expand,
    gallery,
    generate,
    jobs,
    models,
    openai_images,
    placement,
    resources,
    status,
    upscale,
    web,
)
from mold_http.routes.route import Route

__all__ = ["LISTED", "PUBLIC_PATHS", "ROUTES"]

ROUTES: tuple[Route, ...] = (
    *generate.ROUTES,
    *chain.ROUTES,
    *expand.ROUTES,
    *upscale.ROUTES,
    *models.ROUTES,
    *placement.ROUTES,
    *gallery.ROUTES,
    *jobs.ROUTES,
    *downloads.ROUTES,
    *status.ROUTES,
    *disk_usage.ROUTES,
    *capabilities.ROUTES,
    *resources.ROUTES,
    *documents.ROUTES,
    *openai_images.ROUTES,
    *web.ROUTES,
)

# What the documents tell of: all but the files of the page.
LISTED = tuple(route for route in ROUTES if route.listed)

# What needs no key; all else does, also what is not in the table.
PUBLIC_PATHS = frozenset(route.path for route in ROUTES if route.public)
