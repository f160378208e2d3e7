"""Webhooks: jobs are posted as JSON to where their askers want to know of the end."""

from __future__ import annotations

import http.client
import logging
import threading
from collections.abc import Iterable
from queue import Full, Queue
from urllib.parse import SplitResult, urlsplit

import attrs

from mold_core.engine import Job
from mold_core.errors import ValidationError
from mold_http.answers import dumps

__all__ = ["Webhooks"]

log = logging.getLogger("mold.http")

_TIMEOUT_S = 10.0
_PAUSES_S = (1.0, 5.0)
_MAX_WAITING = 1000


@attrs.frozen
class _Call:
    job: Job
    url: SplitResult


class Webhooks:
    """Posts ended jobs, one at a time in a thread of its own, to hosts that are allowed, three times at most."""

    def __init__(self, allowed_hosts: Iterable[str]) -> None:
        self._allowed = frozenset(host.lower() for host in allowed_hosts)
        self._calls: Queue[_Call | None] = Queue(_MAX_WAITING)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    def check(self, url: str) -> SplitResult:
        """Return the parts of a URL that may be called. Raises ValidationError for any other."""
        try:
            parts = urlsplit(url)
            allowed = parts.hostname in self._allowed or parts.netloc.lower() in self._allowed
            _ = parts.port
        except ValueError:
            raise ValidationError("webhook_url is no URL", field="webhook_url", value=url) from None
        if parts.scheme not in ("http", "https") or parts.username is not None or not allowed:
            raise ValidationError(
                "webhook_url must be an http or https URL of a host that MOLD_WEBHOOK_HOSTS allows",
                field="webhook_url",
                value=url,
            )
        return parts

    def follow(self, job: Job, url: str) -> None:
        """Post the job when it has ended."""
        call = _Call(job, self.check(url))
        told = threading.Event()

        def look() -> None:
            if job.finished and not told.is_set():
                told.set()
                self._put(call)

        job.watch(look)
        look()

    def close(self) -> None:
        """Drop what waits, and let the call under way end."""
        self._closing.set()
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(2 * _TIMEOUT_S)

    def _put(self, call: _Call) -> None:
        try:
            self._calls.put_nowait(call)
        except Full:
            log.error("a webhook is dropped: %d wait already", _MAX_WAITING, extra={"job": call.job.id})
            return
        with self._lock:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._work, name="mold-webhooks", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        from queue import Empty

        while not self._closing.is_set():
            try:
                call = self._calls.get(timeout=0.2)
            except Empty:
                continue
            if call is not None:
                self._deliver(call)

    def _deliver(self, call: _Call) -> None:
        for pause_s in (*_PAUSES_S, None):
            try:
                status = _post(call)
            except (OSError, http.client.HTTPException) as error:
                outcome = str(error)
            else:
                if 200 <= status < 300:
                    return
                outcome = f"status {status}"
            if pause_s is None or self._closing.wait(pause_s):
                log.error("a webhook was not delivered: %s", outcome, extra={"job": call.job.id})
                return


def _post(call: _Call) -> int:
    """Post a job and return the status of the answer; a redirect is one that was not delivered."""
    url = call.url
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=_TIMEOUT_S)
    try:
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request("POST", path, dumps(call.job.to_json()), {"Content-Type": "application/json"})
        return connection.getresponse().status
    finally:
        connection.close()
