"""Runs one device: takes jobs from the queue, runs them on a worker, and restarts the worker when it dies."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from time import monotonic, time
from typing import Any, Literal

import attrs

from mold_core.catalog import ModelSpec
from mold_core.engine.finisher import Finisher
from mold_core.engine.metrics import Observers
from mold_core.errors import WorkerError
from mold_core.hookspecs import Worker
from mold_core.jobs.batch import BatchRun, fail_jobs
from mold_core.jobs.job import Job, Prepared
from mold_core.jobs.kinds import JOB_KINDS
from mold_core.jobs.queue import JobQueue
from mold_core.jobs.repository import JobRepository
from mold_core.placement.device import DeviceInfo
from mold_core.plugin_members import completed
from mold_core.requests.models import Models
from mold_core.wire import GenerateRequest

__all__ = ["DeviceRunner", "DeviceState", "DeviceStatus", "load_task"]

log = logging.getLogger("mold.engine")

DeviceState = Literal["idle", "loading", "generating", "degraded"]

# How often a job may be started. The death of a worker is not always the job's fault; a second one probably is.
_MAX_ATTEMPTS = 2

# The share of the last batch's time that may be spent waiting for a larger batch.
_GATHER_SHARE = 0.05
_LONGEST_GATHER_S = 0.1

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


@attrs.frozen(kw_only=True)
class DeviceStatus:
    """A device as status pages show it. `degraded` means that its worker died and has not restarted yet.

    Memory is that of the device in bytes, 0 if unknown; `jobs` are the ids of its running jobs.
    """

    device: str
    name: str
    state: DeviceState
    models: tuple[str, ...]
    jobs: tuple[str, ...]
    memory_used_bytes: int
    memory_total_bytes: int
    restarts: int


class DeviceRunner:
    """One device, its thread and its worker. It is the `QueueConsumer` of the queue and the `RunContext` of kinds."""

    def __init__(
        self,
        device: str,
        start_worker: Callable[[], Worker],
        queue: JobQueue,
        models: Models,
        observers: Observers,
        repository: JobRepository,
        *,
        index: int = 0,
        eager: bool = False,
    ) -> None:
        self.device = device
        self.models = models
        self._start_worker = start_worker
        self._queue = queue
        self._observers = observers
        self._repository = repository
        self._index = index
        self._eager = self._start_next = eager
        self._worker: Worker | None = None
        self._finisher = Finisher(f"mold-finish-{device}")
        self._control_tasks: deque[tuple[Callable[[Worker], Any], Future[Any]]] = deque()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._running: tuple[Job, ...] = ()
        self._state: DeviceState = "idle"
        self._deaths = 0
        self._restarts = 0
        self._ran_s = 0.0
        self._used = monotonic()

    # --- for the engine ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread, if it does not run yet."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"mold-feed-{self.device}", daemon=True)
            self._thread.start()

    def status(self) -> DeviceStatus:
        """Return the current state of the device."""
        info = self.device_info()
        return DeviceStatus(
            device=self.device,
            name=info.name,
            state=self._state,
            models=tuple(sorted(self.loaded())),
            jobs=tuple(job.id for job in self._running if not job.finished),
            memory_used_bytes=info.memory_used_bytes,
            memory_total_bytes=info.memory_total_bytes,
            restarts=self._restarts,
        )

    def device_info(self) -> DeviceInfo:
        """Return what the worker last reported of the device; before a worker exists, only the name."""
        info = None if self._worker is None else self._worker.device_info()
        return info or DeviceInfo(name=self.device)

    def run_control(self, task: Callable[[Worker], Any]) -> Future[Any]:
        """Run a task on the worker between two batches; the future gets its result."""
        future: Future[Any] = Future()
        self._control_tasks.append((task, future))
        self.start()
        self._queue.wake()
        return future

    def close(self) -> None:
        """Stop the thread after its current work; `join` waits for it."""
        self._closing.set()
        self._queue.wake()

    def join(self, timeout_s: float) -> None:
        """Wait until results are saved and the worker is closed. After `timeout_s`, kill a worker process."""
        if self._thread is None or self._thread is threading.current_thread():
            return
        self._thread.join(timeout_s)
        worker = self._worker
        if self._thread.is_alive() and worker is not None and worker.kill() is not False:
            log.warning("the worker of %s did not stop in time and was killed", self.device)
            self._thread.join()

    # --- for the queue -------------------------------------------------------------------------------------------

    def loaded(self) -> frozenset[str]:
        """Return the full names of the models in memory."""
        worker = self._worker
        return worker.loaded() if worker is not None else frozenset()

    def takes(self, job: Job) -> bool:
        """Return whether the job may run here, because its model is not placed on another device."""
        return job.prepared.device in (None, self.device)

    def cost(self, job: Job) -> tuple[int, ...]:
        """Return the bytes to load for a job, the number of loaded models, and the index of this device."""
        loaded = self.loaded()
        return (0 if job.model in loaded else job.prepared.load_bytes, len(loaded), self._index)

    def wanted(self) -> bool:
        """Return whether the thread has other work than waiting for jobs."""
        return bool(self._control_tasks) or self._closing.is_set() or self._is_dead()

    # --- for kinds -----------------------------------------------------------------------------------------------

    @contextmanager
    def loading(self, spec: ModelSpec) -> Iterator[None]:
        """Set the state to loading and measure the time, unless the model is already loaded."""
        if spec.name in self.loaded():
            yield
            return
        self._state = "loading"
        started = monotonic()
        try:
            yield
        finally:
            self._state = "generating"
        self.measure("model_load_s", monotonic() - started, model=spec.name, device=self.device)

    def batch_limit(self, job: Job) -> int:
        """Return how many images of jobs like this one are computed together: max_batch or the family's limit."""
        most = self.models.settings.max_batch
        if job.spec is None or not isinstance(job.request, GenerateRequest):
            return most
        family = self.models.family_of(job.spec)
        try:
            limit = family.batch_limit(job.spec, job.request, self.device)
        except Exception:
            log.exception("batch_limit of family %s failed; the setting max_batch applies", family.name)
            return most
        return most if limit is None else max(1, min(limit, most))

    def measure(self, name: str, value: float, **labels: str) -> None:
        """Report a metric to observers."""
        self._observers.measure(name, value, **labels)

    def finish_async(self, work: Callable[[], object], jobs: Sequence[Job]) -> None:
        """Run `work` in the finishing thread; an exception from it fails the jobs."""
        self._finisher.put(work, jobs)

    def wait_finished(self) -> None:
        """Wait until everything passed to `finish_async` has run."""
        self._finisher.wait_finished()

    def deliver(self, job: Job, result: Any) -> None:
        """Save the result and end the job with it."""
        self._repository.deliver(job, result)

    # --- the thread ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        made_together = 0
        while not self._closing.is_set():
            if self._start_next:
                self._start_early()
            elif self._is_dead():
                self._drop_worker(WorkerError(f"the worker of {self.device} died while it was idle"))
            elif self._control_tasks:
                self._run_control()
            else:
                jobs = self._queue.take(
                    self,
                    self.models.settings.max_batch,
                    limit_of=self.batch_limit,
                    timeout_s=self._patience_s(),
                    made_together=made_together,
                    gather_s=min(self._ran_s * _GATHER_SHARE, _LONGEST_GATHER_S),
                )
                if jobs is None:
                    break
                # A job that yields between parts must not count as a waiting client.
                made_together = len(jobs) if jobs and jobs[0].batch_key is not None else 0
                if jobs:
                    self._run(jobs)
                else:
                    self._unload_if_idle()
        self._end()

    def _run(self, jobs: Sequence[Job]) -> None:
        new = [job for job in jobs if job.state == "queued"]
        running = self._running = tuple(job for job in jobs if job.start())
        if not running:
            return
        kind = JOB_KINDS[running[0].kind]
        started = monotonic()
        try:
            self._note_start([job for job in running if job in new])
            running = self._running = tuple(job for job in running if not job.finished)
            if not running:
                return
            self._state = "generating"
            unfinished = kind.run(running, self)
            self._deaths = 0
            self._queue.put_between(unfinished or ())
        except WorkerError as error:
            self.wait_finished()
            self._drop_worker(error)
            self._retry(running, error)
        except Exception as error:
            self.wait_finished()
            fail_jobs(running, error)
        finally:
            self._state = "degraded" if self._deaths else "idle"
            self._used = monotonic()
            self._ran_s = self._used - started

    def _note_start(self, jobs: Sequence[Job]) -> None:
        if jobs:
            self.measure("batch_jobs", len(jobs), kind=jobs[0].kind)
        self._repository.began(jobs)
        for job in jobs:
            self.measure("queue_wait_s", time() - job.created_at, kind=job.kind)

    def _retry(self, jobs: Sequence[Job], error: WorkerError) -> None:
        """Requeue jobs whose worker died, each to run alone; fail those without attempts left."""
        retried = [job for job in jobs if job.attempts < _MAX_ATTEMPTS and not self._closing.is_set()]
        fail_jobs([job for job in jobs if job not in retried], error)
        retried = [job for job in retried if job.wait_again()]
        for job in retried:
            job.runs_alone = True
        self._queue.put_first(retried)

    @property
    def worker(self) -> Worker:
        """The worker of the device; the first access starts it."""
        if self._worker is None:
            worker = self._worker = completed(self._start_worker(), Worker)
            worker.on_death = self._queue.wake
        return self._worker

    def _start_early(self) -> None:
        """Start the worker before there is work. If this fails, the next job tries again and gets the error."""
        self._start_next = False
        try:
            _started = self.worker
            self._state = "idle"
        except Exception as error:
            self._drop_worker(error)
            self._start_next = False

    def _is_dead(self) -> bool:
        return self._worker is not None and not self._worker.alive

    def _drop_worker(self, error: Exception) -> None:
        """Close a dead worker; after several deaths in a row, wait before the next one starts."""
        log.warning("restarting the worker of %s: %s", self.device, error)
        worker, self._worker = self._worker, None
        self._start_next = self._eager
        if worker is not None:
            worker.close()
        self._deaths += 1
        self._restarts += 1
        self._state = "degraded"
        self.measure("worker_restart", 1, device=self.device)
        if self._deaths > 1:
            self._closing.wait(min(_FIRST_PAUSE_S * 2 ** (self._deaths - 2), _LONGEST_PAUSE_S))

    def _run_control(self) -> None:
        task, future = self._control_tasks.popleft()
        try:
            future.set_result(task(self.worker))
        except WorkerError as error:
            self._drop_worker(error)
            future.set_exception(error)
        except Exception as error:
            future.set_exception(error)
        self._state = "degraded" if self._deaths else "idle"
        self._used = monotonic()

    def _patience_s(self) -> float | None:
        """Return the seconds until idle models are unloaded, or None for never."""
        limit = self.models.settings.idle_unload_s
        return max(self._used + limit - monotonic(), 0.01) if limit and self.loaded() else None

    def _unload_if_idle(self) -> None:
        limit = self.models.settings.idle_unload_s
        if limit and self._worker is not None and monotonic() - self._used >= limit and self.loaded():
            self._used = monotonic()
            try:
                dropped = self._worker.unload()
            except Exception as error:  # the thread must continue, or the device takes no more jobs
                log.warning("%s: idle models could not be unloaded: %s", self.device, error)
                if isinstance(error, WorkerError):
                    self._drop_worker(error)
            else:
                log.info("%s: unloaded %s after %g idle seconds", self.device, ", ".join(dropped), limit)

    def _end(self) -> None:
        self._finisher.close()
        while self._control_tasks:
            self._control_tasks.popleft()[1].set_exception(WorkerError("the engine was closed"))
        if self._worker is not None:
            self._worker.close()


def load_task(spec: ModelSpec, runner: DeviceRunner) -> Callable[[Worker], None]:
    """Return a control task that loads a model without a job."""

    def load(worker: Worker) -> None:
        with runner.loading(spec):
            worker.load(spec, BatchRun([Job(Prepared(request=None))]))

    return load
