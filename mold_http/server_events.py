"""Changes of the whole server as events: jobs, queue, models, downloads and the gallery."""

from __future__ import annotations

import asyncio
from typing import Any

from mold_http.responses import json_of
from mold_http.service import Service
from mold_http.sse import Feed, Source, frame

__all__ = ["SERVER_EVENTS", "ServerEventSource"]

SERVER_EVENTS = ("job", "queue", "models", "download", "gallery")

_ENDED = ("done", "failed", "cancelled")

# New results that are noticed at a time.
_NEWEST = 50


class ServerEventSource(Source):
    """The state of the server at first, then its changes, which are looked for every second."""

    interval_s = 1.0

    def __init__(self, service: Service) -> None:
        super().__init__(Feed(service.feeds))
        self._service = service
        self._seen: dict[tuple[str, str], Any] = {}
        self._results: set[str] | None = None
        self._oldest: int | None = None  # key of the last of them, if the gallery has more

    async def read(self) -> list[bytes]:
        """Return an event for everything that has changed since the last call."""
        return await asyncio.to_thread(self._changes)

    def _changes(self) -> list[bytes]:
        queue = self._service.engine.queue
        frames = self._jobs()
        frames += self._changed("queue", "", {"paused": queue.paused, "depth": len(queue), "capacity": queue.capacity})
        frames += self._changed("models", "", {"loaded": sorted(self._service.engine.loaded())})
        for download in self._service.downloads.states():
            frames += self._changed("download", download.id, json_of(download))
        return frames + self._gallery()

    def _jobs(self) -> list[bytes]:
        """Return the events of jobs; those that ended before the first call are not reported."""
        recent = {job.id: job.to_json() for job in self._service.engine.recent_jobs()}
        first = not self._seen
        frames = []
        for id, data in recent.items():
            changed = self._changed("job", id, data)
            frames += [] if first and data["state"] in _ENDED else changed
        for name, id in [*self._seen]:
            if name == "job" and id not in recent:
                del self._seen[name, id]
        return frames

    def _gallery(self) -> list[bytes]:
        """Return an event for each result that was added since the last call."""
        gallery = self._service.gallery
        if gallery is None:
            return []
        page = gallery.list(None, _NEWEST)
        known, self._results = self._results, {entry.filename for entry in page.entries}
        oldest, self._oldest = self._oldest, page.entries[-1].key if page.next else None
        if known is None:
            return []
        # Where newer results have been deleted, older ones that are behind the last page take their places.
        added = [
            entry
            for entry in reversed(page.entries)
            if entry.filename not in known and (oldest is None or entry.key > oldest)
        ]
        return [frame("gallery", {"filename": entry.filename}) for entry in added]

    def _changed(self, name: str, id: str, data: Any) -> list[bytes]:
        """Return an event if its data differ from those that were sent last."""
        if self._seen.get((name, id)) == data:
            return []
        self._seen[name, id] = data
        return [frame(name, data)]
