"""The table of all routes."""

from __future__ import annotations

from mold_http.routes import (
    capabilities,
    chain,
    disk_usage,
    documents,
    downloads,
    estimate,
    expand,
    gallery,
    generate,
    jobs,
    mcp,
    models,
    openai_images,
    openai_models,
    openai_videos,
    placement,
    queue_entries,
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
    *estimate.ROUTES,
    *expand.ROUTES,
    *upscale.ROUTES,
    *models.ROUTES,
    *placement.ROUTES,
    *gallery.ROUTES,
    *jobs.ROUTES,
    *queue_entries.ROUTES,
    *downloads.ROUTES,
    *status.ROUTES,
    *disk_usage.ROUTES,
    *capabilities.ROUTES,
    *resources.ROUTES,
    *documents.ROUTES,
    *openai_models.ROUTES,
    *openai_images.ROUTES,
    *openai_videos.ROUTES,
    *mcp.ROUTES,
    *web.ROUTES,
)

# The documented routes: all except the files of the web page.
LISTED = tuple(route for route in ROUTES if route.listed)

# Paths that need no key. All others do, including those that are not in the table.
PUBLIC_PATHS = frozenset(route.path for route in ROUTES if route.public)
