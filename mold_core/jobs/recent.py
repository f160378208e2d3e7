"""The jobs in memory: all that have not ended, and the most recent that have."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import attrs

from mold_core.jobs.job import Job

__all__ = ["RecentJobs", "result_bytes"]

# How many finished jobs, and how many bytes of their results, are kept for clients that ask later.
_KEEP = 200
_KEEP_BYTES = 64 * 1024 * 1024


class RecentJobs:
    """Live and recently finished jobs by id and by Idempotency-Key. All methods may be called from any thread."""

    def __init__(self, keep: int = _KEEP, keep_bytes: int = _KEEP_BYTES) -> None:
        self._keep = keep
        self._keep_bytes = keep_bytes
        self._lock = threading.Lock()
        self._live: dict[str, Job] = {}
        self._ended: OrderedDict[str, tuple[Job, int]] = OrderedDict()
        self._ended_bytes = 0
        self._keys: dict[str, tuple[str, Any]] = {}
        self._key_of: dict[str, str] = {}

    def add(self, job: Job, key: str | None = None, request: Any = None) -> None:
        """Add a job; `request` is the request that `key` was sent with."""
        with self._lock:
            self._live[job.id] = job
            if key is not None:
                self._keys[key] = (job.id, request)
                self._key_of[job.id] = key

    def forget(self, job: Job) -> None:
        """Remove a job and its key."""
        with self._lock:
            self._live.pop(job.id, None)
            self._ended_bytes -= self._ended.pop(job.id, (job, 0))[1]
            self._forget_key(job.id)

    def ended(self, job: Job, result_bytes: int) -> None:
        """Move a job to the finished ones, and drop the oldest of those above the limits."""
        with self._lock:
            if self._live.pop(job.id, None) is None:
                return
            self._ended[job.id] = (job, result_bytes)
            self._ended_bytes += result_bytes
            while len(self._ended) > self._keep or self._ended_bytes > self._keep_bytes:
                id_, (_job, size) = self._ended.popitem(last=False)
                self._ended_bytes -= size
                self._forget_key(id_)

    def find(self, id: str) -> Job | None:
        """Return a job by its id, or None if it is not in memory."""
        with self._lock:
            return self._live.get(id) or self._ended.get(id, (None,))[0]

    def find_key(self, key: str) -> tuple[Job, Any] | None:
        """Return the job with a key, and the request that the key was sent with."""
        with self._lock:
            id_, request = self._keys.get(key, ("", None))
            job = self._live.get(id_) or self._ended.get(id_, (None,))[0]
        return None if job is None else (job, request)

    def live(self) -> list[Job]:
        """Return the jobs that have not ended, oldest first."""
        with self._lock:
            return list(self._live.values())

    def all(self) -> list[Job]:
        """Return all jobs in memory, finished ones first."""
        with self._lock:
            return [job for job, _size in self._ended.values()] + list(self._live.values())

    def _forget_key(self, id: str) -> None:
        key = self._key_of.pop(id, None)
        if key is not None:
            self._keys.pop(key, None)


def result_bytes(value: Any) -> int:
    """Return the total size in bytes of the files in a result."""
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, tuple | list):
        return sum(result_bytes(item) for item in value)
    if attrs.has(type(value)):
        return sum(result_bytes(getattr(value, field.name)) for field in attrs.fields(type(value)))
    return 0
