"""What there is and how it is: /health, /api/status, /api/models."""

from __future__ import annotations

from time import monotonic
from typing import Any

import falcon.asgi

from mold_core.engine import Engine, ModelEntry
from mold_core.version import VERSION

__all__ = ["HealthResource", "ModelsResource", "StatusResource"]


class HealthResource:
    """GET /health: 200 with an empty body while the server lives."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.content_type = "text/plain"


class StatusResource:
    """GET /api/status: version, what is loaded, what waits."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._started = monotonic()

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        engine = self._engine
        resp.media = {
            "version": VERSION,
            "models_loaded": sorted(engine.loaded()),
            "busy": engine.busy,
            "gpu_info": None,
            "uptime_secs": int(monotonic() - self._started),
            "queue_depth": len(engine.queue),
            "queue_capacity": engine.queue.capacity,
        }


class ModelsResource:
    """GET /api/models: every model of the catalog."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.media = [_model(entry) for entry in self._engine.models()]


def _model(entry: ModelEntry) -> dict[str, Any]:
    spec, defaults = entry.spec, entry.spec.defaults
    transformer = next((file for file in spec.files if file.component == "transformer"), None)
    return {
        "name": spec.name,
        "family": spec.family,
        "size_gb": round((transformer.size_bytes or 0) / 2**30, 2) if transformer else 0.0,
        "is_loaded": entry.loaded,
        "last_used": None,
        "hf_repo": (transformer.repo or "") if transformer else "",
        "default_steps": defaults.steps,
        "default_guidance": defaults.guidance,
        "default_width": defaults.width,
        "default_height": defaults.height,
        "description": spec.description,
        "downloaded": entry.downloaded,
    }
