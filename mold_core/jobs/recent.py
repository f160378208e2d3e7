"""The jobs that are in memory: all that have not ended, and the last that have."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import attrs

from mold_core.jobs.job import Job

__all__ = ["RecentJobs", "result_bytes"]

# What is kept of jobs that have ended, for those who ask a little later.
_KEEP = 200
_KEEP_BYTES = 64 * 1024 * 1024


class RecentJobs:
    """The finished and running jobs by id and by Idempotency-Key. All methods may be called from any thread."""

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
        """Know a job from now on; `request` is what the key was given for."""
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
        """Keep a job that has ended for a while."""
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
        """Return a job by its id, if it is here."""
        with self._lock:
            return self._live.get(id) or self._ended.get(id, (None,))[0]

    def find_key(self, key: str) -> tuple[Job, Any] | None:
        """Return the job that was given a key, and the request it was given for."""
        with self._lock:
            id_, request = self._keys.get(key, ("", None))
            job = self._live.get(id_) or self._ended.get(id_, (None,))[0]
        return None if job is None else (job, request)

    def live(self) -> list[Job]:
        """Return the jobs that have not ended, oldest first."""
        with self._lock:
            return list(self._live.values())

    def all(self) -> list[Job]:
        """Return the jobs that are here, those that have ended first."""
        with self._lock:
            return [job for job, _size in self._ended.values()] + list(self._live.values())

    def _forget_key(self, id: str) -> None:
        key = self._key_of.pop(id, None)
        if key is not None:
            self._keys.pop(key, None)


def result_bytes(value: Any) -> int:
    """Return the bytes of the files in a result."""
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, tuple | list):
        return sum(result_bytes(item) for item in value)
    if attrs.has(type(value)):
        return sum(result_bytes(getattr(value, field.name)) for field in attrs.fields(type(value)))
    return 0
