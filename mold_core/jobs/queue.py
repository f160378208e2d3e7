"""The bounded queue of jobs: first come, first served, except that jobs for a loaded model are preferred."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from math import inf
from time import monotonic
from typing import Protocol

import attrs

from mold_core.errors import QueueFullError
from mold_core.jobs.job import Job
from mold_core.wire import Queued

__all__ = ["JobQueue", "QueueConsumer"]


class QueueConsumer(Protocol):
    """A device that takes jobs from the queue."""

    def loaded(self) -> frozenset[str]:
        """Return the full names of the models in memory."""

    def takes(self, job: Job) -> bool:
        """Return whether the device can run the job."""

    def cost(self, job: Job) -> tuple[int, ...]:
        """Return the cost of taking the job, 0 for none; the idle device with the lowest cost gets it."""

    def wanted(self) -> bool:
        """Return whether the device has other work and must not wait for jobs."""


@attrs.frozen(eq=False)
class _Waiting:
    """A waiting job and the time since when it waits. A partly run job `gives_way`: other jobs run before it, once.

    It does not start before `due`. Times are those of `time.monotonic`.
    """

    job: Job
    since: float
    gives_way: bool = False
    due: float = 0.0


class JobQueue:
    """Jobs that wait for a device. All methods may be called from any thread.

    A job for a loaded model may overtake others, but not a job that has waited for `patience_s`.
    """

    def __init__(self, capacity: int, patience_s: float = 30.0) -> None:
        self.capacity = capacity
        self.patience_s = patience_s
        self._waiting: list[_Waiting] = []
        self._idle: list[QueueConsumer] = []
        self._changed = threading.Condition()
        self._reserved = 0
        self._paused = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def paused(self) -> bool:
        """Whether no device takes a job."""
        return self._paused

    # --- for clients ---------------------------------------------------------------------------------------------

    def put(self, job: Job, *, reserved: bool = False, delay_s: float = 0.0) -> int:
        """Add a job, in a `reserved` place or a new one, and return its position, from 1.

        The job does not start before `delay_s` seconds have passed. Raises QueueFullError.
        """
        with self._changed:
            if not reserved:
                self.reserve()
            self._reserved -= 1
            now = monotonic()
            self._waiting.append(_Waiting(job, now, due=now + delay_s))
            position = len(self._waiting)
            job.report(Queued(position=position))
            self._changed.notify_all()
            return position

    def reserve(self, *, force: bool = False) -> None:
        """Reserve a place for a job to be added. Raises QueueFullError, unless `force` ignores the capacity."""
        with self._changed:
            taken = len(self._waiting) + self._reserved
            if taken >= self.capacity and not force:
                raise QueueFullError(f"generation queue is full ({taken}/{self.capacity})", hint="try again later")
            self._reserved += 1

    def release(self) -> None:
        """Release a reserved place."""
        with self._changed:
            self._reserved -= 1

    def put_first(self, jobs: Sequence[Job]) -> None:
        """Put jobs that were taken back at the head, regardless of the capacity."""
        with self._changed:
            self._reorder([_Waiting(job, monotonic()) for job in jobs] + self._waiting)
            self._changed.notify_all()

    def put_between(self, jobs: Sequence[Job]) -> None:
        """Requeue partly run jobs behind one batch of other jobs, if there are any."""
        with self._changed:
            self._waiting += [_Waiting(job, monotonic(), gives_way=True) for job in jobs if not job.finished]
            self._changed.notify_all()

    def position(self, job: Job) -> int:
        """Return the position of a job, from 1; 0 when it no longer waits."""
        with self._changed:
            for index, waiting in enumerate(self._waiting):
                if waiting.job is job:
                    return index + 1
            return 0

    def move(self, job: Job, position: int) -> int:
        """Move a waiting job to a position, from 1; beyond the end means last. Return it, or 0 for an unknown job."""
        with self._changed:
            moved = next((waiting for waiting in self._waiting if waiting.job is job), None)
            if moved is None:
                return 0
            order = [waiting for waiting in self._waiting if waiting is not moved]
            position = min(max(position, 1), len(self._waiting))
            order.insert(position - 1, moved)
            self._reorder(order)
            self._changed.notify_all()
            return position

    def discard(self, job: Job) -> None:
        """Remove a job if it waits."""
        with self._changed:
            self._remove([job])

    def pause(self) -> None:
        """Stop devices from taking jobs until `resume`; running jobs continue."""
        with self._changed:
            self._paused = True

    def resume(self) -> None:
        """Allow devices to take jobs again."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def close(self) -> list[Job]:
        """Release every waiting device and return the jobs that have not started."""
        with self._changed:
            self._closed = True
            left = [waiting.job for waiting in self._waiting]
            self._waiting.clear()
            self._changed.notify_all()
            return left

    def wait_for_idle(self, devices: int, timeout_s: float = 10.0) -> bool:
        """Wait until this number of devices wait for work; False after the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._idle) >= devices, timeout_s)

    # --- for devices ---------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Wake idle devices so that they check for other work."""
        with self._changed:
            self._changed.notify_all()

    def take(
        self,
        consumer: QueueConsumer,
        limit: int,
        *,
        limit_of: Callable[[Job], int] | None = None,
        timeout_s: float | None = None,
        made_together: int = 0,
        gather_s: float = 0.0,
    ) -> list[Job] | None:
        """Wait for work and return a job, with others of the same batch key up to `limit` images in total.

        `limit_of` may return a lower limit for the chosen job.

        The job is the first one whose model the device has loaded, unless the oldest job has waited too long, and for
        which no other idle device has a lower cost. `made_together` is the number of jobs that the device took last.
        With several clients, the queue waits up to `gather_s` for as many jobs as before, so that the batch does not
        shrink.
        Returns an empty list when the device has other work or after the timeout, None when the queue is closed.
        """
        with self._changed:
            self._gather(consumer, limit, made_together, gather_s)
            self._idle.append(consumer)
            self._changed.notify_all()
            try:
                first = self._wait_for_job(consumer, timeout_s)
            finally:
                self._idle.remove(consumer)
                self._changed.notify_all()  # another idle device may now have the lowest cost for a remaining job
            if first is None:
                return None if self._closed else []
            if limit_of is not None:
                limit = min(limit, limit_of(first))
            batch = self._companions(first, self._share(first, limit))
            for job in batch:
                if job.state == "queued":
                    job.report(Queued(position=0))
            self._remove(batch)
            self._waiting.sort(key=lambda waiting: not waiting.gives_way)
            self._waiting = [attrs.evolve(w, since=-inf, gives_way=False) if w.gives_way else w for w in self._waiting]
            return batch

    def _wait_for_job(self, consumer: QueueConsumer, timeout_s: float | None) -> Job | None:
        deadline = None if timeout_s is None else monotonic() + timeout_s
        while not (self._closed or consumer.wanted()):
            job = None if self._paused else self._choose(consumer)
            now = monotonic()
            if job is not None or (deadline is not None and deadline <= now):
                return job
            moments = [waiting.due for waiting in self._waiting if waiting.due > now]
            moments += [] if deadline is None else [deadline]
            self._changed.wait(min(moments) - now if moments else None)
        return None

    def _choose(self, consumer: QueueConsumer) -> Job | None:
        for job in self._by_preference(consumer.loaded()):
            if not consumer.takes(job):
                continue
            cost = consumer.cost(job)
            if not any(other.takes(job) and other.cost(job) < cost for other in self._idle if other is not consumer):
                return job
        return None

    def _by_preference(self, loaded: frozenset[str]) -> list[Job]:
        due = [waiting for waiting in self._waiting if waiting.due <= monotonic()]
        order = sorted(due, key=lambda waiting: waiting.gives_way)
        jobs = [waiting.job for waiting in order]
        if not order or monotonic() - order[0].since >= self.patience_s:
            return jobs
        late = {id(waiting.job) for waiting in order if waiting.gives_way}
        return sorted(jobs, key=lambda job: (id(job) in late, job.model is not None and job.model not in loaded))

    def _gather(self, consumer: QueueConsumer, limit: int, made_together: int, gather_s: float) -> None:
        """Wait up to `gather_s` for as many jobs as the device took last."""
        clients = made_together + len(self._waiting)
        if made_together < 1 or clients < 2:
            return
        enough = min(clients, limit)
        deadline = monotonic() + gather_s
        while not (self._closed or consumer.wanted() or self._paused) and len(self._waiting) < enough:
            left = deadline - monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _share(self, first: Job, limit: int) -> int:
        """Return how many images one device takes, so that other idle devices with the model get their share."""
        ready = 1 + sum(1 for other in self._idle if other.takes(first) and other.cost(first)[0] == 0)
        if ready == 1:
            return limit
        alike = sum(w.job.prepared.size for w in self._waiting if w.job.batch_key == first.batch_key)
        return max(min(limit, -(-alike // ready)), first.prepared.size)

    def _companions(self, first: Job, limit: int) -> list[Job]:
        batch, capacity = [first], limit - first.prepared.size
        if first.batch_key is None:
            return batch
        for waiting in self._waiting:
            job = waiting.job
            alike = job.batch_key == first.batch_key and job.prepared.device == first.prepared.device
            if job is not first and alike and job.prepared.size <= capacity:
                batch.append(job)
                capacity -= job.prepared.size
        return batch

    # --- order ---------------------------------------------------------------------------------------------------

    def _remove(self, jobs: Sequence[Job]) -> None:
        left = [waiting for waiting in self._waiting if waiting.job not in jobs]
        if len(left) != len(self._waiting):
            self._reorder(left)

    def _reorder(self, order: list[_Waiting]) -> None:
        """Set the order of waiting jobs, and report their new position to those that moved."""
        before = {id(waiting): index for index, waiting in enumerate(self._waiting)}
        self._waiting = order
        for index, waiting in enumerate(order):
            if before.get(id(waiting)) != index and waiting.job.state == "queued":
                waiting.job.report(Queued(position=index + 1))
