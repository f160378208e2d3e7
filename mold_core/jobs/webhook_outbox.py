"""The pending webhooks: job, address and time of the next attempt, stored on the disk if jobs are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import attrs

from mold_core.jobs.store import JobStore

__all__ = ["Webhook", "WebhookOutbox"]


@attrs.frozen(kw_only=True)
class Webhook:
    """An address to notify of the end of a job. `attempts` is the number of failed attempts so far."""

    job_id: str
    url: str
    attempts: int = 0


class WebhookOutbox:
    """The webhooks that are not delivered yet. All methods may be called from any thread.

    A webhook is due when its job has ended, and again after a pause when an attempt failed. With a store, webhooks
    survive a restart, and those not recorded as delivered are due again, so each is delivered at least once.
    `changed` is called when one becomes due; it must not block.
    """

    def __init__(self, store: JobStore | None = None) -> None:
        self.changed: Callable[[], object] = lambda: None
        self._store = store
        self._lock = threading.Lock()
        self._hooks: dict[tuple[str, str], Webhook] = {}
        self._due_at: dict[tuple[str, str], float] = {}
        for job_id, url, attempts, due_at in store.webhooks() if store is not None else ():
            self._hooks[job_id, url] = Webhook(job_id=job_id, url=url, attempts=attempts)
            if due_at is not None:
                self._due_at[job_id, url] = due_at

    def add(self, job_id: str, url: str) -> None:
        """Add an address to notify of the end of a job; with a store, it is on the disk when this returns.

        Adding the same address twice has no effect. Raises OutputError.
        """
        with self._lock:
            self._hooks.setdefault((job_id, url), Webhook(job_id=job_id, url=url))
        if self._store is not None:
            self._store.add_webhook(job_id, url).result()

    def ended(self, job_id: str) -> None:
        """Make the webhooks of a finished job due."""
        now = time.time()
        with self._lock:
            mine = [key for key in self._hooks if key[0] == job_id and key not in self._due_at]
            self._due_at.update(dict.fromkeys(mine, now))
        if mine:
            self.changed()

    def forget(self, job_id: str) -> None:
        """Forget the webhooks of a postponed job; they stay in the store for the engine that resumes the job."""
        with self._lock:
            for key in [key for key in self._hooks if key[0] == job_id]:
                self._drop(key)

    def waiting(self) -> tuple[str, ...]:
        """Return the jobs of webhooks that are not due yet."""
        with self._lock:
            return tuple(job_id for job_id, url in self._hooks if (job_id, url) not in self._due_at)

    def take_due(self, limit: int) -> tuple[list[Webhook], float | None]:
        """Return up to `limit` due webhooks, and the seconds until the next one is due (None: not known).

        The caller must call `delivered`, `failed` or `given_up` for each returned webhook.
        """
        now = time.time()
        with self._lock:
            order = sorted(self._due_at, key=lambda key: self._due_at[key])
            taken = [key for key in order if self._due_at[key] <= now][:limit]
            for key in taken:
                del self._due_at[key]
            left = [due_at for key, due_at in self._due_at.items()]
            return [self._hooks[key] for key in taken], max(min(left) - now, 0.0) if left else None

    def delivered(self, hook: Webhook) -> None:
        """Remove a delivered webhook."""
        self._end(hook)

    def given_up(self, hook: Webhook) -> None:
        """Remove a webhook that is not tried any more."""
        self._end(hook)

    def failed(self, hook: Webhook, pause_s: float) -> None:
        """Try again after a pause."""
        key, due_at = (hook.job_id, hook.url), time.time() + pause_s
        with self._lock:
            if key in self._hooks:
                self._hooks[key] = attrs.evolve(hook, attempts=hook.attempts + 1)
                self._due_at[key] = due_at
        self._write(lambda store: store.change_webhook(hook.job_id, hook.url, hook.attempts + 1, due_at))

    def _end(self, hook: Webhook) -> None:
        with self._lock:
            self._drop((hook.job_id, hook.url))
        self._write(lambda store: store.remove_webhook(hook.job_id, hook.url))

    def _drop(self, key: tuple[str, str]) -> None:
        self._hooks.pop(key, None)
        self._due_at.pop(key, None)

    def _write(self, change: Callable[[JobStore], Future[None]]) -> None:
        if self._store is not None:
            change(self._store)
