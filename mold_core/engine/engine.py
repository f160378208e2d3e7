"""The engine: takes requests, gives jobs, events and results; library, CLI and server all use this class."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from types import TracebackType

import attrs

from mold_core.catalog import DefaultModel, LocalFiles, ModelSpec, ModelStore, default_model, pull, resolve
from mold_core.engine.batch import fail_jobs, run_batch
from mold_core.engine.complete import complete
from mold_core.engine.device import choose_device
from mold_core.engine.jobs import Job
from mold_core.engine.notices import Notices
from mold_core.engine.queue import JobQueue
from mold_core.engine.worker import InlineExecutor, blaming
from mold_core.errors import CancelledError, InferenceError, PluginError
from mold_core.hookspecs import ModelFamily, Worker
from mold_core.plugins import Plugins, load_plugins
from mold_core.settings import Settings
from mold_core.version import VERSION
from mold_core.wire import GenerateRequest, GenerateResponse, Info, ProgressEvent
from mold_core.wire.convert import check

__all__ = ["Engine", "ModelEntry"]

log = logging.getLogger("mold.engine")

_CLOSE_TIMEOUT_S = 10.0


@attrs.frozen(kw_only=True)
class ModelEntry:
    """A model as listings show it."""

    spec: ModelSpec
    downloaded: bool
    loaded: bool
    runnable: bool


class Engine:
    """Makes pictures. Nothing is loaded, and torch is not imported, before the first request.

        with Engine() as engine:
            response = engine.generate(GenerateRequest(prompt="a red house under a yellow moon"))

    All methods may be called from any thread. `settings` and `plugins` default to those of the environment.
    """

    def __init__(self, settings: Settings | None = None, plugins: Plugins | None = None) -> None:
        self.settings = settings if settings is not None else Settings.load()
        self.plugins = plugins if plugins is not None else load_plugins(self.settings.plugins)
        self.store = ModelStore(self.settings.models_path)
        self.queue = JobQueue(self.settings.queue_size)
        self._worker: Worker | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._running: list[Job] = []
        self._notices = Notices(self.plugins)
        self._closed = False

    # --- requests ------------------------------------------------------------------------------------------------

    def submit(self, request: GenerateRequest) -> Job:
        """Queue a request and return its job at once.

        Raises ValidationError, UnknownModelError, ModelNotFoundError or QueueFullError for what can be told now.
        """
        check(request)
        spec = self.resolve(request.model)
        family = self.family_of(spec)
        self.store.locate(spec)
        with blaming(f"{spec.name} could not take the request"):
            completed, warnings = complete(request, spec, family, embed_metadata=self.settings.embed_metadata)
        remark = spec.vocabulary.remark(completed.prompt) if spec.vocabulary else None
        job = Job(completed, warnings=(*warnings, remark) if remark else warnings, on_finish=self._finished)
        for warning in job.warnings:
            job.report(Info(message=warning))
        with self._lock:
            if self._closed:
                raise InferenceError("the engine was closed")
            self.queue.put(job)
            self._ensure_running()
        return job

    def generate(
        self, request: GenerateRequest, on_event: Callable[[ProgressEvent], object] | None = None
    ) -> GenerateResponse:
        """Return the result of a request.

        `on_event` is called in this thread with every progress event; when it returns False the job is cancelled, which
        takes effect between two denoising steps. Raises the job's error, CancelledError among them.
        """
        job = self.submit(request)
        try:
            for event in job.events():
                if on_event is not None and on_event(event) is False:
                    raise CancelledError("the job was cancelled")
            result: GenerateResponse = job.result()
        except BaseException:
            job.cancel()
            raise
        return result

    def stream(self, request: GenerateRequest) -> Iterator[ProgressEvent | GenerateResponse]:
        """Yield progress events and, last, the response. Closing the iterator cancels the job."""
        job = self.submit(request)
        try:
            yield from job.events()
            yield job.result()
        finally:
            job.cancel()

    # --- models --------------------------------------------------------------------------------------------------

    def models(self) -> list[ModelEntry]:
        """Return every model of the catalog with what is known of it here."""
        loaded = self.loaded()
        return [
            ModelEntry(
                spec=spec,
                downloaded=self.store.has(spec),
                loaded=spec.name in loaded,
                runnable=spec.family in self.plugins.families,
            )
            for spec in self.plugins.models.values()
        ]

    def loaded(self) -> frozenset[str]:
        """Return the full names of the models in memory."""
        return self._worker.loaded() if self._worker else frozenset()

    @property
    def busy(self) -> bool:
        """Whether a job is running."""
        return any(not job.finished for job in self._running)

    def default_model(self) -> DefaultModel:
        """Return the model that requests without a name get, and why that one."""
        return default_model(
            self.settings, self.plugins.models, self.store, lambda spec: spec.family in self.plugins.families
        )

    def pull(
        self, name: str, on_event: Callable[[ProgressEvent], object] | None = None, *, skip_verify: bool = False
    ) -> LocalFiles:
        """Fetch what is missing of a model and return its files; see `mold_core.catalog.pull`."""
        spec = self.resolve(name)
        if on_event is not None and not spec.embedded and spec.family not in self.plugins.families:
            on_event(Info(message=f"no loaded plugin brings the family {spec.family}, so nothing runs {spec.name} yet"))
        return pull(spec, self.store, on_event=on_event, skip_verify=skip_verify)

    def resolve(self, name: str | None) -> ModelSpec:
        """Return the model that a name means; None means the default. Raises UnknownModelError."""
        return self.default_model().spec if name is None else resolve(name, self.plugins.models)

    def family_of(self, spec: ModelSpec) -> ModelFamily:
        """Return the family that runs a model. Raises PluginError when its plugin is not there."""
        family = self.plugins.families.get(spec.family)
        if family is None:
            raise PluginError(
                f"model {spec.name!r} needs family {spec.family!r}, which no loaded plugin brings",
                hint="mold plugins shows what is loaded and what failed",
            )
        return family

    # --- life ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Cancel every job, wait for the step under way, and free all models."""
        with self._lock:
            self._closed = True
            unfinished = [*self.queue.close(), *self._running]
        fail_jobs(unfinished, _closed())
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_TIMEOUT_S)
        self._notices.close(_CLOSE_TIMEOUT_S)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the thread that feeds the worker ------------------------------------------------------------------------

    def _ensure_running(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="mold-worker", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while jobs := self.queue.take(self.loaded, self._together, self.settings.max_batch):
            running = self._begin(jobs)
            if running:
                self._run(running)
        if self._worker is not None:
            self._worker.close()

    def _begin(self, jobs: list[Job]) -> list[Job]:
        """Mark jobs as running, but for those that were cancelled meanwhile."""
        with self._lock:
            self._running = [] if self._closed else [job for job in jobs if job.start()]
            running, closed = self._running, self._closed
        if closed:
            fail_jobs(jobs, _closed())
        return running

    def _run(self, jobs: list[Job]) -> None:
        try:
            if self._worker is None:
                self._worker = InlineExecutor().start(choose_device(self.settings), self.settings, self.plugins)
            spec = self.resolve(jobs[0].request.model)
            run_batch(jobs, spec, self._worker, limit=self.settings.max_batch, version=VERSION)
        except Exception as error:
            fail_jobs(jobs, error)

    def _finished(self, job: Job) -> None:
        self.queue.discard(job)
        self._notices.put(job)

    def _together(self, first: Job, other: Job) -> bool:
        if first.request.model != other.request.model:
            return False
        try:
            spec = self.resolve(first.request.model)
            family = self.family_of(spec)
            if not hasattr(family, "batch_key"):
                return False
            key = family.batch_key(spec, first.request)
            return key is not None and bool(key == family.batch_key(spec, other.request))
        except Exception:
            log.exception("batch_key of a family failed; its requests run alone")
            return False


def _closed() -> CancelledError:
    return CancelledError("the engine was closed")
