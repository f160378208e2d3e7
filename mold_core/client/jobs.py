"""A job on a server: its events, its result, and its cancellation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic
from urllib.parse import quote

from mold_core.client.connection import Connection, Frame
from mold_core.client.envelopes import error_of
from mold_core.errors import UnreachableError
from mold_core.jobs.kinds import JOB_KINDS
from mold_core.wire import ProgressEvent
from mold_core.wire.events import event_from_json
from mold_core.wire.request import Result

__all__ = ["Last", "RemoteJob", "read_frames"]


class RemoteJob(Generic[Result]):
    """A job on a server, with the methods of `mold_core.Job`.

    `id`, `kind` and `model` never change. `about` is the server's last description of the job; `state` and `to_json`
    request a new one. `events` may be read several times, because the server stores them.
    """

    def __init__(self, connection: Connection, about: Mapping[str, Any]) -> None:
        self._connection = connection
        self.about = dict(about)
        self.id = str(about["id"])
        self.kind = str(about.get("kind", "generate"))
        self.model = about.get("model")
        self._result: Any = None

    @property
    def state(self) -> str:
        """The current state: queued, running, done, failed or cancelled."""
        return str(self.to_json()["state"])

    @property
    def finished(self) -> bool:
        """Whether the job is done, failed or cancelled."""
        return self.state in ("done", "failed", "cancelled")

    def to_json(self) -> dict[str, Any]:
        """Return the current description of the job. Raises JobNotFoundError."""
        self.about = self._connection.json("GET", self._path())
        return self.about

    def events(self) -> Iterator[ProgressEvent]:
        """Yield every event from the first to the last. Raises the error of a failed job."""
        frames = self._connection.frames("GET", f"{self._path()}/events?image_data=base64")
        for item in read_frames(frames, self.kind):
            if isinstance(item, Last):
                self._result = item.response
            else:
                yield item

    def result(self) -> Result:
        """Wait for the result and return it. Raises the error of a failed job."""
        if self._result is None:
            for _ in self.events():
                pass
        kind = JOB_KINDS.get(self.kind)
        if self._result is None and kind is not None and not kind.ends_with_complete:
            self._result = kind.result_without_event(str(self.model))
        if self._result is None:
            raise UnreachableError(
                f"the server at {self._connection.address} stopped; the job may continue when it starts again"
            )
        result: Result = self._result
        return result

    def cancel(self) -> bool:
        """Cancel the job. Returns False if it was already finished."""
        state = self._connection.json("DELETE", self._path())["state"]
        return bool(state == "cancelled")

    def _path(self) -> str:
        return f"/api/jobs/{quote(self.id, safe='')}"


class Last(Generic[Result]):
    """The response at the end of a stream."""

    def __init__(self, response: Result) -> None:
        self.response = response


def read_frames(frames: Iterator[Frame], kind: str) -> Iterator[ProgressEvent | Last[Any]]:
    """Yield the events of a stream, then its response in a `Last`. Raises the error that the stream ends with."""
    for frame in frames:
        if frame.event == "progress":
            event = event_from_json(frame.data)
            if event is not None:  # a newer server may send unknown events
                yield event
        elif frame.event == "complete":
            yield Last(JOB_KINDS[kind].result_of(frame.data))
            return
        elif frame.event == "error":
            raise error_of(str(frame.data.get("code", "INTERNAL_ERROR")), str(frame.data.get("message", "")))
