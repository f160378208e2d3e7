"""The web page at ``/`` and its files.

Every file is a separate route with a fixed content type, so no path is built from a request. The files are public,
because they contain no secrets; the API that they call requires its key.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import falcon.asgi

from mold_http.conditional import respond_bytes
from mold_http.routes.route import Handler, ResponseSpec, Route
from mold_http.service import Service

__all__ = ["FILES", "ROUTES"]

_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

FILES = (
    "api.js",
    "compare.js",
    "create.js",
    "detail.js",
    "dom.js",
    "expand.js",
    "gallery.js",
    "icon.svg",
    "main.js",
    "mask.js",
    "models.js",
    "server.js",
    "settings.js",
    "state.js",
    "style.css",
    "toml.js",
    "video.js",
)


async def page(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the page; its `data-key` says whether the API requires a key."""
    body = _read("index.html")
    if service.keys.required:
        body = body.replace(b'data-key="none"', b'data-key="needed"')
    resp.set_header("Content-Security-Policy", _POLICY)
    resp.set_header("Referrer-Policy", "no-referrer")
    _send_file(req, resp, body, "text/html")


def _serving(name: str) -> Handler:
    content_type = _TYPES[name[name.rindex(".") :]]

    async def send(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        _send_file(req, resp, _read(name), content_type)

    return send


def _send_file(req: falcon.asgi.Request, resp: falcon.asgi.Response, body: bytes, content_type: str) -> None:
    """Send a file, or 304 if the browser already has it."""
    resp.content_type = f"{content_type}; charset=utf-8"
    resp.set_header("X-Content-Type-Options", "nosniff")
    resp.set_header("Cache-Control", "no-cache")  # revalidated each time, so that an upgrade is visible at once
    respond_bytes(req, resp, body)


@cache
def _read(name: str) -> bytes:
    return (files("mold_http") / "web" / name).read_bytes()


def _file_route(name: str) -> Route:
    return Route(
        method="GET",
        path=f"/web/{name}",
        name=f"web_{name.replace('.', '_')}",
        summary="A file of the web page",
        handler=_serving(name),
        tag="page",
        responses=(ResponseSpec(doc="The file.", content={_TYPES[name[name.rindex(".") :]]: "the file"}),),
        public=True,
        tier=None,
        listed=False,
    )


ROUTES = (
    Route(
        method="GET",
        path="/",
        name="web_page",
        summary="The web page",
        doc="Generates images and video in a browser. Its files are under `/web/`. It contacts no other server.",
        handler=page,
        tag="page",
        responses=(ResponseSpec(doc="The page.", content={"text/html": "the page"}),),
        public=True,
        tier=None,
    ),
    *(_file_route(name) for name in FILES),
)
