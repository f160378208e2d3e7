"""The OpenAPI document, the interactive reference, and the metrics."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from html import escape
from importlib.resources import files

import falcon.asgi

from mold_http.conditional import respond_bytes
from mold_http.guard.proxies import site_of
from mold_http.metrics import CONTENT_TYPE
from mold_http.openapi import document_text
from mold_http.responses import JSON
from mold_http.routes.route import ResponseSpec, Route
from mold_http.service import Service

__all__ = ["ROUTES"]

# Scalar without the features that send requests to other servers.
_SCALAR = {
    "url": "openapi.json",
    "withDefaultFonts": False,
    "telemetry": False,
    "proxyUrl": "",
    "agent": {"disabled": True},
    "mcp": {"disabled": True},
    "hideClientButton": True,
    "showDeveloperTools": "never",
}

# The page may send requests to this server only.
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data: blob:; font-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>mold: the HTTP API</title>
<link rel="icon" href="data:,">
<style>body {{ margin: 0 }}</style>
</head>
<body>
<script id="api-reference" type="application/json" data-configuration="{configuration}"></script>
<script src="docs/scalar.js"></script>
</body>
</html>
"""


async def openapi(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the OpenAPI document."""
    resp.content_type = JSON
    resp.data = document_text(
        tuple(route for route in service.routes if route.listed),
        site_of(req).prefix,
        tuple((family.name, tuple(family.parameters)) for family in service.engine.plugins.families.values()),
        tuple(service.engine.plugins.placement_components.values()),
    )


async def docs(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the page that shows the document."""
    resp.content_type = "text/html; charset=utf-8"
    resp.set_header("Content-Security-Policy", _CONTENT_POLICY)
    resp.set_header("X-Content-Type-Options", "nosniff")
    resp.text = _PAGE.format(configuration=escape(json.dumps(_SCALAR)))


async def docs_script(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the script of that page, from the installed package."""
    resp.content_type = "text/javascript; charset=utf-8"
    resp.set_header("Cache-Control", "public, max-age=86400")
    resp.set_header("X-Content-Type-Options", "nosniff")
    respond_bytes(req, resp, await asyncio.to_thread(_scalar))


async def metrics(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the metrics."""
    resp.content_type = CONTENT_TYPE
    resp.data = service.metrics.text()


@cache
def _scalar() -> bytes:
    return (files("offapi") / "scalar.js").read_bytes()


ROUTES = (
    Route(
        method="GET",
        path="/api/openapi.json",
        name="openapi",
        summary="The OpenAPI document",
        handler=openapi,
        tag="documents",
        responses=(ResponseSpec(doc="OpenAPI 3.1.", content={JSON: {"type": "object"}}),),
        public=True,
        tier=None,
    ),
    Route(
        method="GET",
        path="/api/docs",
        name="docs",
        summary="The interactive reference",
        handler=docs,
        tag="documents",
        responses=(
            ResponseSpec(doc="The page; it makes no requests to other servers.", content={"text/html": "the page"}),
        ),
        public=True,
        tier=None,
    ),
    Route(
        method="GET",
        path="/api/docs/scalar.js",
        name="docs_script",
        summary="The script of the interactive reference",
        handler=docs_script,
        tag="documents",
        responses=(ResponseSpec(doc="The script.", content={"text/javascript": "the script"}),),
        public=True,
        tier=None,
    ),
    Route(
        method="GET",
        path="/metrics",
        name="metrics",
        summary="Metrics for Prometheus",
        handler=metrics,
        tag="documents",
        responses=(ResponseSpec(doc="The metrics.", content={"text/plain": "the metrics"}),),
        public=True,
        tier=None,
    ),
)
