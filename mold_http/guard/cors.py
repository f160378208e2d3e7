"""CORS: allows the pages of one other site, which a setting names."""

from __future__ import annotations

from urllib.parse import urlsplit

import falcon.asgi

from mold_core.errors import SettingsError

__all__ = ["EXPOSED", "Cors"]

# Response headers that pages of that site may read.
EXPOSED = (
    "X-Mold-Seed-Used",
    "X-Request-ID",
    "Retry-After",
    "X-Mold-Dimension-Warning",
    "X-Mold-Video-Frames",
    "X-Mold-Video-Fps",
    "X-Mold-Video-Width",
    "X-Mold-Video-Height",
    "X-Mold-Video-Has-Audio",
    "X-Mold-Video-Duration-Ms",
    "X-Mold-Video-Audio-Sample-Rate",
    "X-Mold-Video-Audio-Channels",
    "X-Next-Cursor",
    "Location",
)


class Cors:
    """Middleware: allows the site, and responds to preflight requests."""

    def __init__(self, origin: str) -> None:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}":
            raise SettingsError(
                f"MOLD_CORS_ORIGIN must be an origin such as https://app.example, not {origin!r}",
                field="cors_origin",
                value=origin,
            )
        self._origin = origin

    async def process_request(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Add CORS headers, and respond to preflights at once: they have no key."""
        resp.append_header("Vary", "Origin")
        if req.get_header("Origin") != self._origin:
            return
        resp.set_header("Access-Control-Allow-Origin", self._origin)
        resp.set_header("Access-Control-Expose-Headers", ", ".join(EXPOSED))
        if req.method == "OPTIONS" and req.get_header("Access-Control-Request-Method"):
            resp.set_header("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE")
            resp.set_header("Access-Control-Allow-Headers", _plain(req.get_header("Access-Control-Request-Headers")))
            resp.set_header("Access-Control-Max-Age", "600")
            resp.status = 204
            resp.complete = True


def _plain(names: str | None) -> str:
    """Return the requested header names, if they are valid names."""
    requested = [name.strip() for name in (names or "").split(",")]
    return ", ".join(name for name in requested if name.replace("-", "").isalnum() and name.isascii())[:1000] or "*"
