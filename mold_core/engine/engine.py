"""The engine: it turns requests into jobs, events and results. The library, the CLI and the server use this class."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, cast

import attrs

from mold_core.catalog import CatalogWithAdopted, DefaultModel, LocalFiles, ModelSpec, ModelStore, user_models
from mold_core.catalog.pull import pull
from mold_core.catalog.together import FILES_AT_ONCE
from mold_core.chains import ClipRules
from mold_core.deprecated import VerbWorker, renamed_fields
from mold_core.engine.background_runner import BackgroundRunner
from mold_core.engine.device_runner import DeviceRunner, DeviceStatus, load_task
from mold_core.engine.metrics import Observers
from mold_core.engine.plugin_notifier import PluginNotifier
from mold_core.engine.worker.executors import executor_named
from mold_core.errors import CancelledError, InferenceError, ValidationError
from mold_core.gallery import Gallery
from mold_core.hookspecs import ModelFamily, Worker
from mold_core.jobs.job import Job, JobState, Prepared
from mold_core.jobs.kinds import JOB_KINDS, job_kind_of
from mold_core.jobs.kinds.upscale import origin_of
from mold_core.jobs.queue import JobQueue
from mold_core.jobs.recovery import pause_s, recovered
from mold_core.jobs.repository import JobRepository, digest_of
from mold_core.jobs.store import JobStore
from mold_core.placement.device import DeviceInfo, choose_devices, torch_name
from mold_core.placement.device_map import Placements
from mold_core.placement.memory import MemoryReport, memory_report
from mold_core.plugins import Plugins, load_plugins
from mold_core.requests.models import ModelEntry, Models
from mold_core.requests.upscalers import installed_upscaler
from mold_core.settings import Settings
from mold_core.wire import (
    ChainRequest,
    ChainResponse,
    DevicePlacement,
    ExpandRequest,
    ExpandResponse,
    GenerateRequest,
    GenerateResponse,
    Info,
    ParameterInfo,
    ProgressEvent,
    Request,
    UpscaleRequest,
    UpscaleResponse,
)
from mold_core.wire.convert import check
from mold_core.wire.request import Result

if TYPE_CHECKING:
    from mold_core.engine.disk_usage import DiskInventory

__all__ = ["Engine", "EngineStatus"]

log = logging.getLogger("mold.engine")

_CLOSE_TIMEOUT_S = 10.0


@attrs.frozen(kw_only=True)
class EngineStatus:
    """The current state of an engine. `running` lists the running jobs, oldest first.

    `gallery_error` says why the last result could not be saved in the gallery; None if it was saved.
    """

    queue_depth: int
    queue_capacity: int
    paused: bool
    running: tuple[Job, ...]
    devices: tuple[DeviceStatus, ...]
    gallery_error: str | None = None


@renamed_fields(shelf="disk")
class Engine:
    """Runs requests. No model is loaded, and torch is not imported, before the first request.

        with Engine() as engine:
            response = engine.generate(GenerateRequest(prompt="a red house under a yellow moon"))

    All methods may be called from any thread. `settings` and `plugins` default to those of the environment. `executor`
    is where models run if the settings do not say: ``inline``, ``process`` or the name of a plugin's executor. With a
    `gallery`, every image and video is saved there before its job is done. A `durable` engine keeps jobs and results
    on the disk, under ``jobs`` in MOLD_HOME, and resumes the unfinished jobs of a previous engine.

    A server calls `submit` and watches the job: `Job.events`, `Job.watch`, `Job.result`, `Job.cancel`. `job` and `jobs`
    find jobs later. `pause`, `resume` and `move` control the queue; `load` and `unload` control memory. `status` and
    `devices` never wait for running work. `observers` receive metrics (see `mold_core.engine.metrics`).
    """

    def __init__(
        self,
        settings: Settings | None = None,
        plugins: Plugins | None = None,
        *,
        executor: str = "inline",
        gallery: Gallery | None = None,
        durable: bool = False,
    ) -> None:
        base_settings = settings if settings is not None else Settings.load()
        loaded = plugins if plugins is not None else load_plugins(base_settings.plugins)
        self.settings = loaded.read_settings(base_settings)
        described = {**loaded.models, **user_models(self.settings, loaded.models)}
        self.plugins = loaded.with_catalog(CatalogWithAdopted(described, self.settings))
        self.store = ModelStore(self.settings.models_path)
        self.queue = JobQueue(self.settings.queue_size)
        self.observers = Observers()
        self._executor = executor_named(self.settings.executor or executor, self.plugins)
        self._models = Models(self.settings, self.plugins, self.store, Placements(self.settings))
        store = JobStore(self.settings.home / "jobs", self.settings.job_retention_h * 3600) if durable else None
        self._repository = JobRepository(store, gallery)
        self.webhooks = self._repository.webhooks
        self._background = BackgroundRunner(self._models, self.observers, self._repository)
        self._runners: tuple[DeviceRunner, ...] = ()
        self._lock = threading.RLock()
        self._notifier = PluginNotifier(self.plugins)
        self._closed = False
        self._recover()

    # --- requests ------------------------------------------------------------------------------------------------

    def submit(
        self,
        request: Request[Result],
        *,
        idempotency_key: str | None = None,
        durable: bool = True,
        webhook_url: str | None = None,
        download: bool = True,
    ) -> Job[Result]:
        """Queue a request of any kind (`mold_core.jobs.kinds`) and return its job without waiting for the result.

        A second request with the same `idempotency_key` gets the job of the first. A second pull of a model gets the
        job of the running pull. In a durable engine, the job is on the disk before this returns, unless `durable` is
        False because the job is useless after a crash. A `webhook_url` is added to `webhooks`, from which a server
        notifies it of the job's end.

        Without `download`, a request that leaves the choice of a model to mold gets an installed one.

        Raises ValidationError, UnknownModelError, ModelNotFoundError, QueueFullError or, for a durable job,
        InsufficientStorageError, as far as these can be detected now.
        """
        kind = job_kind_of(request)
        check(request)
        digest = digest_of(request) if idempotency_key is not None else ""
        before = self._same(idempotency_key, digest)
        if before is not None:
            return self._with_webhook(before, webhook_url)
        chosen = request if download else kind.without_download(request, self._models)
        job = self._new_job(kind.name, kind.prepare(chosen, self._models))
        if durable:
            self._repository.check_room(job)
        queue = self._queue_of(job)
        with self._lock:
            if self._closed:
                raise InferenceError("the engine was closed")
            before = self._same(idempotency_key, digest) or self._repository.same_work(job)
            if before is not None:
                return self._with_webhook(before, webhook_url)
            queue.reserve()
            accepted = self._repository.accept(job, durable=durable, key=idempotency_key, digest=digest)
        try:
            accepted.result()
            self._with_webhook(job, webhook_url)
        except BaseException:
            queue.release()
            self.webhooks.forget(job.id)
            self._repository.refuse(job)
            raise
        self._enqueue(job)
        return job

    def prepare(self, request: object) -> Prepared:
        """Return a request with everything filled in, without queueing it. Raises the errors of `submit`."""
        check(request)
        return job_kind_of(request).prepare(request, self._models)

    def run(self, request: Request[Result], on_event: Callable[[ProgressEvent], object] | None = None) -> Result:
        """Return the result of a request of any kind.

        `on_event` is called in this thread with every progress event; when it returns False, the job is cancelled,
        which takes effect between two denoising steps. Raises the job's error, including CancelledError.
        """
        job = self.submit(request)
        try:
            for event in job.events():
                if on_event is not None and on_event(event) is False:
                    raise CancelledError("the job was cancelled")
            return job.result()
        except BaseException:
            job.cancel()
            raise

    def generate(
        self, request: GenerateRequest, on_event: Callable[[ProgressEvent], object] | None = None
    ) -> GenerateResponse:
        """Generate images or a video and return them; see `run`."""
        return self.run(request, on_event)

    def chain(self, request: ChainRequest, on_event: Callable[[ProgressEvent], object] | None = None) -> ChainResponse:
        """Generate a long video and return it; see `run`. Clips that were finished before are reused."""
        return self.run(request, on_event)

    def expand(
        self, request: ExpandRequest, on_event: Callable[[ProgressEvent], object] | None = None
    ) -> ExpandResponse:
        """Expand a prompt and return the detailed prompts; see `run`."""
        return self.run(request, on_event)

    def upscale(
        self, request: UpscaleRequest, on_event: Callable[[ProgressEvent], object] | None = None
    ) -> UpscaleResponse:
        """Upscale an image and return the result; see `run`. A step is a tile, or a frame of a video.

        A `mold_core.FileUpscaleRequest` reads and writes files, without holding the whole result in memory.
        """
        return self.run(request, on_event)

    def installed_upscaler(self, request: UpscaleRequest) -> str:
        """Return the name of the installed upscaler that mold chooses for an image.

        Raises ModelNotFoundError if none is installed, ValidationError for an image that cannot be read.
        """
        check(request)
        return installed_upscaler(self._models, origin_of(request)).name

    def stream(self, request: Request[Result]) -> Iterator[ProgressEvent | Result]:
        """Yield progress events and, last, the response. Closing the iterator cancels the job."""
        job = self.submit(request)
        try:
            yield from job.events()
            yield job.result()
        finally:
            job.cancel()

    # --- jobs ----------------------------------------------------------------------------------------------------

    def job(self, id: str) -> Job:
        """Return a job by its id. Raises JobNotFoundError if it never existed or is no longer kept."""
        return self._repository.find(id)

    def jobs(self, *, state: JobState | None = None, kind: str | None = None) -> list[Job]:
        """Return all jobs that are kept, oldest first."""
        return [job for job in self._repository.all() if state in (None, job.state) and kind in (None, job.kind)]

    def recent_jobs(self) -> list[Job]:
        """Return the waiting, running and recently finished jobs; unlike `jobs`, this does not read the disk."""
        return self._repository.recent()

    def delete_job(self, id: str) -> None:
        """Cancel a job if it has not ended, and remove it with its result; files in the gallery stay.

        Raises JobNotFoundError, and OutputError if the disk cannot be written.
        """
        job = self.job(id)
        job.cancel()
        job.wait()  # its result may be being saved
        self._repository.delete(job)

    def move(self, id: str, position: int) -> int:
        """Move a waiting job to a position in its queue, from 1; return the new position, 0 if it no longer waits.

        Raises JobNotFoundError.
        """
        job = self.job(id)
        return self._queue_of(job).move(job, position)

    def pause(self) -> None:
        """Start no more jobs except pulls until `resume`. Running jobs continue, and jobs can be submitted.

        The queue of a durable engine stays paused after a restart.
        """
        self.queue.pause()
        self._repository.note_paused(True)

    def resume(self) -> None:
        """Start jobs again after `pause`."""
        self._repository.note_paused(False)
        self.queue.resume()

    # --- models --------------------------------------------------------------------------------------------------

    def models(self) -> list[ModelEntry]:
        """Return every model of the catalog with its state on this machine."""
        return self._models.entries(self.loaded())

    def loaded(self) -> frozenset[str]:
        """Return the full names of the models in memory on any device."""
        return frozenset().union(*(runner.loaded() for runner in self._runners))

    def load(self, name: str | None, device: str | None = None) -> str:
        """Load a model after the running jobs, and return the device that has it.

        Without `device`, this is the device that the model is placed on, else one that has it loaded, else the one
        with the fewest models. Raises UnknownModelError, ModelNotFoundError, ValidationError for a device that does not
        exist or that the model is not placed on, and the errors of loading.
        """
        placed = self._models.placed(self.resolve(name))
        spec = placed.spec
        self.store.locate(spec)
        self.start()
        if device is not None and placed.device not in (None, device):
            raise ValidationError(
                f"{spec.name} is placed on {placed.device}", field="device", value=device, hint="change its placement"
            )
        runner = min(
            self._named(device or placed.device),
            key=lambda runner: (spec.name not in runner.loaded(), len(runner.loaded())),
        )
        runner.run_control(load_task(spec, runner)).result()
        return runner.device

    def placement(self, name: str) -> DevicePlacement | None:
        """Return the devices that config.toml sets for a model's components, if any. Raises UnknownModelError."""
        return self._models.placements.get(self.resolve(name).name)

    def place(self, name: str, placement: DevicePlacement | None) -> str:
        """Set the devices of a model's components in config.toml, or remove them (None); return its full name.

        This applies to later requests without a placement; the model is reloaded for them. Raises UnknownModelError,
        ValidationError for a placement that is impossible on this machine, and SettingsError or OutputError if
        config.toml cannot be changed.
        """
        if placement is None and self._models.placements.get(name.lower()) is not None:
            self._models.placements.put(name.lower(), None)  # also for a model whose plugin is not installed any more
            return name.lower()
        spec = self.resolve(name)
        if placement is not None:
            check(placement)
            self._models.placed(spec, placement)
        if placement is not None or self._models.placements.get(spec.name) is not None:
            self._models.placements.put(spec.name, placement)
        return spec.name

    def unload(self, name: str | None = None, device: str | None = None) -> tuple[tuple[str, str], ...]:
        """Unload a model or all models after the running jobs; return (device, model) for each unloaded one.

        Raises UnknownModelError, and ValidationError for a device that does not exist.
        """
        model = None if name is None else self.resolve(name).name
        runners = [runner for runner in self._named(device) if runner.loaded()]
        futures = [(runner, runner.run_control(lambda worker: worker.unload(model))) for runner in runners]
        return tuple((runner.device, unloaded) for runner, future in futures for unloaded in future.result())

    def default_model(self) -> DefaultModel:
        """Return the model for requests that name none, and the reason for the choice."""
        return self._models.default()

    def pull(
        self, name: str, on_event: Callable[[ProgressEvent], object] | None = None, *, skip_verify: bool = False
    ) -> LocalFiles:
        """Download the missing files of a model in this thread, and return its files; see `mold_core.catalog.pull`.

        To download in the background, submit a PullRequest.
        """
        spec = self.resolve(name)
        if on_event is not None and not spec.embedded and not self._models.provided(spec):
            unprovided = f"no loaded plugin provides the family {spec.family}"
            on_event(Info(message=f"{unprovided}, so nothing runs {spec.name} yet"))
        return pull(
            spec,
            self.store,
            on_event=on_event,
            skip_verify=skip_verify,
            offline=self.settings.offline,
            at_once=FILES_AT_ONCE,
        )

    def abilities(self, name: str) -> tuple[str, ...]:
        """Return what a model can do: capabilities of its family, "upscale" or "expand".

        Empty for a component of other models, and if no plugin runs it. Raises UnknownModelError.
        """
        return self._models.abilities(self.resolve(name))

    def memory_report(self, name: str) -> MemoryReport | None:
        """Return whether a model fits into the memory of this machine; None if its family does not report sizes.

        Loads nothing; the sizes of files that are not downloaded come from the catalog. Raises UnknownModelError, and
        CheckpointError for a damaged file.
        """
        spec = self.resolve(name)
        devices = self._device_infos()
        return memory_report(self.family_of(spec), spec, self.store, self.settings, self.plugins, devices)

    def resolve(self, name: str | None) -> ModelSpec:
        """Return the model with a name; None means the default. Raises UnknownModelError."""
        return self._models.resolve(name)

    def family_of(self, spec: ModelSpec) -> ModelFamily:
        """Return the family that runs a model. Raises PluginError if no loaded plugin provides it."""
        return self._models.family_of(spec)

    def catalog(self) -> dict[str, ModelSpec]:
        """Return the models of the catalog by full name."""
        return dict(self.plugins.models)

    def capabilities(self, spec: ModelSpec) -> frozenset[str]:
        """Return the capabilities of a model's family; empty if no loaded plugin provides it."""
        return frozenset(getattr(self.plugins.families.get(spec.family), "capabilities", ()))

    def parameters(self, spec: ModelSpec) -> tuple[ParameterInfo, ...]:
        """Return the parameters of a model; empty if no loaded plugin provides its family."""
        return self._models.parameters(spec)

    def chain_frames(self, spec: ModelSpec) -> int | None:
        """Return the default number of frames per clip in chains of a model; None if its family has no chains."""
        renderer = self.plugins.chain_renderers.get(spec.family)
        if renderer is None:
            return None
        frames: int | None = spec.options.get("clip_frames", ClipRules.of(renderer).default)
        return frames

    @property
    def disk(self) -> DiskInventory:
        """The disk of this machine: details and removal of models, LoRAs, disk usage, stored chains."""
        from mold_core.engine.disk_usage import DiskInventory

        return DiskInventory(self._models, self._device_infos)

    # --- current state -------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a job is running."""
        return any(job.state == "running" for job in self._repository.live())

    def devices(self) -> tuple[DeviceStatus, ...]:
        """Return the current state of each device; empty before the engine has started."""
        return tuple(runner.status() for runner in self._runners)

    def status(self) -> EngineStatus:
        """Return the current state of the engine, without waiting for running work."""
        return EngineStatus(
            queue_depth=len(self.queue),
            queue_capacity=self.queue.capacity,
            paused=self.queue.paused,
            running=tuple(job for job in self._repository.live() if job.state == "running"),
            devices=self.devices(),
            gallery_error=self._repository.gallery_error,
        )

    # --- starting and closing ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the devices now instead of with the first request. Worker processes start and warm up."""
        with self._lock:
            if self._closed:
                raise InferenceError("the engine was closed")
            if not self._runners:
                self._runners = tuple(map(self._runner, count(), choose_devices(self.settings)))
            for runner in self._runners:
                runner.start()

    def close(self, grace_s: float = 0.0) -> None:
        """Take no more requests, wait up to `grace_s` for running jobs, cancel the rest and unload all models.

        A durable engine does not cancel the rest: they resume when the next engine starts.
        """
        with self._lock:
            self._closed = True
            waiting = [*self.queue.close(), *self._background.queue.close()]
        deadline = monotonic() + grace_s
        self._end(waiting)
        running = self._repository.live()
        for job in running:
            job.wait(max(deadline - monotonic(), 0))
        self._end(running)
        runners: tuple[DeviceRunner | BackgroundRunner, ...] = (*self._runners, self._background)
        for runner in runners:
            runner.close()
        deadline = monotonic() + _CLOSE_TIMEOUT_S
        for runner in runners:
            runner.join(max(deadline - monotonic(), 0))
        self._notifier.close(_CLOSE_TIMEOUT_S)
        self._repository.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- internal ------------------------------------------------------------------------------------------------

    def _device_infos(self) -> dict[str, DeviceInfo]:
        """Return the devices as their workers reported them, by torch name."""
        return {torch_name(runner.device): runner.device_info() for runner in self._runners}

    def _new_job(self, kind: str, prepared: Prepared, id: str | None = None) -> Job:
        job = Job(
            prepared,
            kind=kind,
            on_finish=self._finished,
            id=id,
        )
        job._place = self._queue_of(job).position
        for warning in job.warnings:
            job.report(Info(message=warning))
        return job

    def _same(self, key: str | None, digest: str) -> Job | None:
        """Return the job that was submitted with this key before, after its pending writes are on the disk."""
        job = None if key is None else self._repository.find_key(key, digest)
        if job is not None:
            self._repository.flush()
        return job

    def _with_webhook(self, job: Job, webhook_url: str | None) -> Job:
        """Return the job, after adding the address to notify of its end, if any."""
        if webhook_url is not None:
            self.webhooks.add(job.id, webhook_url)
            if job.finished:
                self.webhooks.ended(job.id)
        return job

    def _runner(self, index: int, device: str) -> DeviceRunner:
        def start_worker() -> Worker:
            worker = self._executor.start(device, self.settings, self.plugins)
            return worker if hasattr(worker, "run") else cast(Worker, VerbWorker(worker))

        return DeviceRunner(
            device,
            start_worker,
            self.queue,
            self._models,
            self.observers,
            self._repository,
            index=index,
            eager=self._executor.name != "inline",
        )

    def _named(self, device: str | None) -> tuple[DeviceRunner, ...]:
        named = tuple(runner for runner in self._runners if device in (None, runner.device))
        if device is not None and not named:
            raise ValidationError(
                f"there is no device {device!r} here",
                field="device",
                value=device,
                hint=f"there is {', '.join(runner.device for runner in self._runners) or 'none'}",
            )
        return named

    def _queue_of(self, job: Job) -> JobQueue:
        return self._background.queue if JOB_KINDS[job.kind].lane == "background" else self.queue

    def _enqueue(self, job: Job, delay_s: float = 0.0) -> None:
        """Queue a job in its reserved place; if the engine is closing, end the job instead."""
        with self._lock:
            self._queue_of(job).put(job, reserved=True, delay_s=delay_s)
            if self._closed:
                self._queue_of(job).discard(job)
            else:
                self._background.start() if JOB_KINDS[job.kind].lane == "background" else self.start()
        if self._closed:
            self._end([job])

    def _end(self, jobs: Sequence[Job]) -> None:
        """End jobs because the engine is closed; jobs in the store resume with the next engine."""
        for job in jobs:
            if not job.seal():
                job.wait(_CLOSE_TIMEOUT_S)  # it has ended, or its result is being saved
            elif self._repository.postpone(job):
                self.webhooks.forget(job.id)
                job.fail(CancelledError("the engine was closed; the job goes on when it starts again"))
            else:
                job.fail(CancelledError("the engine was closed"))

    def _recover(self) -> None:
        """Queue the unfinished jobs of a previous engine, and pause the queue if it was paused."""
        if self._repository.paused:
            log.warning("the queue is paused, as it was before the restart; POST /api/queue/resume starts jobs again")
            self.queue.pause()
        for job in recovered(self._repository, self._models, self._new_job):
            self._queue_of(job).reserve(force=True)
            self._enqueue(job, pause_s(job))
        for id_ in self.webhooks.waiting():
            if self._repository.ended_before(id_):
                self.webhooks.ended(id_)

    def _finished(self, job: Job) -> None:
        if job.error is not None and job.error.hides and log.hasHandlers():
            # A server reports such errors in its log only, before clients can see that the job has failed.
            # Without a log, the error itself carries the text for its caller.
            log.error("job %s failed: %s", job.id, job.error, extra={"job": job.id})
        self._queue_of(job).discard(job)
        self._repository.ended(job)
        code = job.error.code if job.error is not None else ""
        labels = {"kind": job.kind, "model": job.model or ""}
        self.observers.measure("job_finished", 1, **labels, state=job.state, code=code)
        if job.state == "done" and job.started_at is not None and job.finished_at is not None:
            self.observers.measure("job_s", job.finished_at - job.started_at, **labels)
        self.webhooks.ended(job.id)
        self._notifier.put(job)
