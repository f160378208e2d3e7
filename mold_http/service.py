"""The state that all handlers share: engine, gallery, settings, open streams, metrics."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

import attrs

from mold_core.build import Build, this_build
from mold_core.engine import Engine
from mold_core.gallery import Gallery
from mold_core.settings import Settings
from mold_http.downloads import Downloads
from mold_http.guard.keys import Keys
from mold_http.guard.rates import RateLimits
from mold_http.mcp_bridge import McpBridge
from mold_http.media_threads import MediaThreads
from mold_http.metrics import Metrics
from mold_http.resources import Resources
from mold_http.sse import Feeds
from mold_http.webhooks import Webhooks

if TYPE_CHECKING:
    from mold_http.routes.route import Route

__all__ = ["Service"]


def _nothing_to_stop() -> None:
    """The default of `stop`: another program runs the app, and stops it."""


@attrs.define(kw_only=True, eq=False)
class Service:
    """One running server. `stop` shuts it down; the server that runs the app sets it."""

    engine: Engine
    gallery: Gallery | None
    settings: Settings
    routes: tuple[Route, ...]
    keys: Keys
    metrics: Metrics
    resources: Resources
    webhooks: Webhooks
    rates: RateLimits | None = None
    mcp: McpBridge = attrs.Factory(McpBridge)
    media: MediaThreads = attrs.Factory(MediaThreads)
    downloads: Downloads = attrs.Factory(Downloads)
    feeds: Feeds = attrs.Factory(Feeds)
    stop: Callable[[], None] = _nothing_to_stop
    started: float = attrs.Factory(monotonic)
    build: Build = attrs.Factory(this_build)

    @property
    def uptime_s(self) -> float:
        """Seconds since the server started."""
        return monotonic() - self.started
