"""Webhooks: posts each finished job as JSON to the URL in its request."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable
from time import monotonic
from urllib.parse import SplitResult, urlsplit

from mold_core.engine import Engine
from mold_core.errors import JobNotFoundError, ValidationError
from mold_core.jobs.webhook_outbox import Webhook
from mold_http.responses import dumps
from mold_http.webhook_client import WebhookClient

__all__ = ["Webhooks", "pause_after"]

log = logging.getLogger("mold.http")

_NOT_IN_URLS = re.compile(r"[^\x21-\x7e]")

_FAREWELL_S = 2.0
_AT_ONCE = 4

# Retries after 1 second, then after twice as long each time, at most an hour: nine hours in total.
MAX_ATTEMPTS = 20
_LONGEST_PAUSE_S = 3600.0


def pause_after(attempts: int) -> float:
    """Return the seconds to wait after this many failed attempts."""
    return float(min(2 ** (attempts - 1), _LONGEST_PAUSE_S))


class Webhooks:
    """Posts finished jobs to allowed hosts, a few at a time, until the receiver responds with 2xx.

    Pending deliveries are in the engine's webhook outbox, on disk if the engine is durable, so a restarted server
    continues them.
    """

    def __init__(self, engine: Engine, allowed_hosts: Iterable[str]) -> None:
        self._engine = engine
        self._outbox = engine.webhooks
        self._allowed = frozenset(host.lower() for host in allowed_hosts)
        self._client = WebhookClient()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._posting = 0
        self._closing = False

    def check(self, url: str) -> SplitResult:
        """Return the parts of an allowed URL. Raises ValidationError for any other."""
        # NOTE: urlsplit() drops tabs and line breaks silently, and a URL is ASCII on the wire.
        odd = _NOT_IN_URLS.search(url)
        if odd is not None:
            raise ValidationError(
                f"webhook_url contains the character {odd[0]!r}, which cannot be sent",
                field="webhook_url",
                value=url,
                hint="percent-encode it in the path or query; write a host name in its xn-- form",
            )
        try:
            parts = urlsplit(url)
            allowed = parts.hostname in self._allowed or parts.netloc.lower() in self._allowed
            port = parts.port
        except ValueError:
            raise ValidationError(
                "webhook_url is not a URL: its host or port cannot be read", field="webhook_url", value=url
            ) from None
        if port == 0 or not parts.hostname:
            missing = "host" if not parts.hostname else "port that can be called"
            raise ValidationError(f"webhook_url has no {missing}", field="webhook_url", value=url)
        if parts.scheme not in ("http", "https") or parts.username is not None or not allowed:
            raise ValidationError(
                "webhook_url must be an http or https URL of a host that MOLD_WEBHOOK_HOSTS allows",
                field="webhook_url",
                value=url,
            )
        return parts

    def start(self) -> None:
        """Start to deliver pending and future webhooks."""
        self._outbox.changed = self._wake
        self._thread = threading.Thread(target=self._work, name="mold-webhooks", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Start no more calls, and wait briefly for running ones. The rest is delivered after the next start."""
        self._outbox.changed = lambda: None
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            idle = self._changed.wait_for(lambda: self._posting == 0, _FAREWELL_S)
        if self._thread is not None:
            self._thread.join()
        if idle:
            self._client.close()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _work(self) -> None:
        with self._changed:
            while not self._closing:
                due, next_s = self._outbox.take_due(_AT_ONCE - self._posting)
                for hook in due:
                    self._posting += 1
                    threading.Thread(target=self._deliver, args=(hook,), name="mold-webhook", daemon=True).start()
                self._changed.wait(None if self._posting == _AT_ONCE else next_s)

    def _deliver(self, hook: Webhook) -> None:
        try:
            self._attempt(hook)
        finally:
            with self._changed:
                self._posting -= 1
                self._changed.notify_all()

    def _attempt(self, hook: Webhook) -> None:
        try:
            problem = self._post(hook)
        except (ValidationError, JobNotFoundError) as error:
            self._give_up(hook, str(error))
            return
        except Exception as error:  # any failure counts as an attempt
            log.exception("a webhook failed", extra={"job": hook.job_id})
            problem = type(error).__name__
        if problem is None:
            self._outbox.delivered(hook)
        elif hook.attempts + 1 >= MAX_ATTEMPTS:
            self._give_up(hook, problem)
        else:
            self._outbox.failed(hook, pause_after(hook.attempts + 1))
            log.warning("a webhook delivery failed and will be retried: %s", problem, extra={"job": hook.job_id})

    def _give_up(self, hook: Webhook, problem: str) -> None:
        self._outbox.given_up(hook)
        log.error("a webhook was not delivered: %s", problem, extra={"job": hook.job_id})

    def _post(self, hook: Webhook) -> str | None:
        """Post a job; return the problem, or None if the receiver accepted it. A redirect counts as a failure.

        Raises ValidationError for a host that is no longer allowed, and JobNotFoundError for an expired job.
        """
        import httpx2

        url, job = self.check(hook.url), self._engine.job(hook.job_id)
        began = monotonic()
        try:
            status = self._client.post(url, dumps(job.to_json()), {"X-Mold-Attempt": str(hook.attempts + 1)})
        except httpx2.TransportError as error:
            return f"{type(error).__name__} after {monotonic() - began:.1f} s: {error}"
        return None if 200 <= status < 300 else f"status {status}"
