"""The worker that runs models in this process, and the executor that starts it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, cast

import attrs

from mold_core.cancelling import cancelled_by
from mold_core.catalog import LocalFiles, ModelSpec, ModelStore
from mold_core.engine.worker.residency import Residency
from mold_core.hookspecs import InstalledPlugins, ModelFamily, Pipeline, Run, UpscalerNetwork, Worker
from mold_core.jobs.task import WorkerTask
from mold_core.jobs.within_memory import saying_out_of_memory
from mold_core.placement.device import DeviceInfo, budget_bytes, device_info, torch_name, use_device
from mold_core.placement.device_map import WHOLE_MODEL
from mold_core.placement.memory import explained, load_context, pixels_of, plan_for, spec_for
from mold_core.placement.memory_plan import MemoryPlan
from mold_core.plugin_errors import wrap_plugin_errors
from mold_core.plugin_members import completed
from mold_core.settings import Settings
from mold_core.upscaling.loading import COMPONENT, FAMILY, load_network
from mold_core.wire import GenerateRequest, Info, StageDone, StageStart

__all__ = ["InlineExecutor", "LocalWorker"]

log = logging.getLogger("mold.engine")


class LocalWorker(Worker):
    """Loads and runs models on one device, in the thread that calls it. It is the `WorkerHost` of its tasks."""

    def __init__(self, device: str, settings: Settings, plugins: InstalledPlugins) -> None:
        self.device = torch_name(device)
        use_device(self.device)
        self.settings = settings
        self.plugins = plugins
        self._store = ModelStore(settings.models_path)
        self._residency = Residency(budget_bytes(settings, self.device))
        # A model that is placed on the CPU as a whole counts against the CPU's memory, not the device's.
        self._host_residency = self._residency if self.device == "cpu" else Residency(budget_bytes(settings, "cpu"))
        self._placed: dict[str, Mapping[str, str]] = {}
        self._versions: dict[str, tuple[str, ...]] = {}
        self._plans: dict[str, MemoryPlan] = {}
        self._planned_px: dict[str, int] = {}  # the number of pixels that the plan of a model covers

    def loaded(self) -> frozenset[str]:
        """Return the full names of the models in memory."""
        return frozenset((*self._residency.names, *self._host_residency.names))

    def device_info(self) -> DeviceInfo:
        """Return the name and the current memory of the device."""
        info = device_info(self.device)
        return attrs.evolve(info, available_bytes=info.available_bytes + self._residency.used_bytes)

    def load(self, spec: ModelSpec, run: Run) -> None:
        """Load a model."""
        with cancelled_by(run.check):
            self.network(spec, run) if spec.family == FAMILY else self.pipeline(spec, run)

    def unload(self, name: str | None = None) -> tuple[str, ...]:
        """Unload one model, or all; return the names of the unloaded models."""
        names = dict.fromkeys((*self._residency.names, *self._host_residency.names)) if name is None else (name,)
        return tuple(name for name in names if self._drop(name))

    def run(self, task: WorkerTask, run: Run) -> Any:
        """Run a task. `run` can cancel all of its work in this thread."""
        with cancelled_by(run.check):
            return task(self, run)

    def close(self) -> None:
        """Unload all models."""
        self._residency.clear()
        self._host_residency.clear()

    def _drop(self, name: str) -> bool:
        self._placed.pop(name, None)
        self._versions.pop(name, None)
        self._plans.pop(name, None)
        self._planned_px.pop(name, None)
        return self._residency.drop(name) or self._host_residency.drop(name)

    # --- for tasks -----------------------------------------------------------------------------------------------

    def drop_all_but(self, name: str) -> None:
        """Unload all models but one."""
        for other in (*self._residency.names, *self._host_residency.names):
            if other != name:
                self._drop(other)

    def make_available(self, size_bytes: int) -> None:
        """Unload models until this amount of device memory is available to the task."""
        self._residency.make_room(size_bytes)

    def plan_of(self, spec: ModelSpec) -> MemoryPlan | None:
        """Return the memory plan of a loaded model; None if its family does not plan."""
        return self._plans.get(spec.name)

    def pipeline(self, spec: ModelSpec, run: Run, requests: Sequence[GenerateRequest] = ()) -> Pipeline:
        """Return a loaded model, planned so that enough memory remains to compute each of the requests."""
        files, family = self._store.locate(spec), self.plugins.families[spec.family]
        if self._placed.get(spec.name, spec.devices) != spec.devices:
            self._drop(spec.name)  # it was placed elsewhere
        versions = files.versions()
        if self._versions.get(spec.name, versions) != versions:
            self._drop(spec.name)  # its files have changed since it was loaded
        device = torch_name(spec.devices.get(WHOLE_MODEL, self.device), self.device)
        residency = self._residency if device == self.device else self._host_residency
        sized = spec_for(spec, requests)
        if spec.name in residency.names and pixels_of(sized) > self._planned_px.get(spec.name, 0):
            self._plan_again(sized, files, family, device, residency)
        if spec.name in residency.names:
            return residency.get(spec.name)
        return self._loaded(spec, sized, files, family, device, residency, versions, run)

    def _plan_again(
        self, sized: ModelSpec, files: LocalFiles, family: ModelFamily, device: str, residency: Residency
    ) -> None:
        """Plan a loaded model for a larger size; unload it if it must be held differently in memory."""
        name = sized.name
        held_bytes = residency.used_bytes
        context = load_context(self.settings, self.plugins, device, held_bytes=held_bytes, placed=sized.devices)
        plan, before = plan_for(family, sized, files, context), self._plans.get(name)
        if plan is None or before is None:
            return
        if plan.strategy != before.strategy or _outline(plan) != _outline(before):
            self._drop(name)
            return
        self._plans[name], self._planned_px[name] = plan, pixels_of(sized)
        completed(residency.get(name), Pipeline).replan(plan)

    def _loaded(
        self,
        spec: ModelSpec,
        sized: ModelSpec,
        files: LocalFiles,
        family: ModelFamily,
        device: str,
        residency: Residency,
        versions: tuple[str, ...],
        run: Run,
    ) -> Pipeline:
        self._placed[spec.name], self._versions[spec.name] = spec.devices, versions
        held_bytes = residency.used_bytes
        context = load_context(
            self.settings, self.plugins, device, run.report, held_bytes=held_bytes, placed=spec.devices
        )
        with wrap_plugin_errors(f"{spec.name} could not be loaded"):
            plan = plan_for(family, sized, files, context)
        if plan is not None:
            self._plans[spec.name], self._planned_px[spec.name] = plan, pixels_of(sized)
        remark = plan and explained(plan, device, spec.name)
        if remark:
            run.report(Info(message=remark))

        def load() -> Pipeline:
            started = monotonic()
            stage = f"Loading {spec.name}"
            run.report(StageStart(name=stage))
            failure = f"{spec.name} could not be loaded"
            with wrap_plugin_errors(failure), saying_out_of_memory(failure, device):
                pipeline = family.load(spec, files, attrs.evolve(context, plan=plan))
            run.report(StageDone(name=stage, elapsed_ms=int((monotonic() - started) * 1000)))
            return pipeline

        expected_bytes = plan.peak_bytes(device) if plan else files.size_bytes()
        return residency.get(spec.name, expected_bytes, load)

    def network(self, spec: ModelSpec, run: Run) -> UpscalerNetwork:
        """Return the network of an upscaler. Residency holds it like a pipeline, because it has a size and `close`."""
        files = self._store.locate(spec)

        def load() -> Any:
            started = monotonic()
            stage = f"Loading {spec.name}"
            run.report(StageStart(name=stage))
            context = load_context(
                self.settings, self.plugins, self.device, run.report, held_bytes=self._residency.used_bytes
            )
            with wrap_plugin_errors(f"{spec.name} could not be loaded"):
                network = load_network(files.one(COMPONENT), self.plugins.upscalers.values(), context)
            run.report(StageDone(name=stage, elapsed_ms=int((monotonic() - started) * 1000)))
            return network

        network: Any = self._residency.get(spec.name, files.size_bytes(), load)
        return cast(UpscalerNetwork, network)


def _outline(plan: MemoryPlan) -> list[object]:
    """Return the components of a plan without their working memory."""
    return [(component.name, component.device, component.files) for component in plan.components]


class InlineExecutor:
    """Runs models in this process."""

    name = "inline"

    def start(self, device: str, settings: Settings, plugins: InstalledPlugins) -> LocalWorker:
        """Return a worker for the device."""
        return LocalWorker(device, settings, plugins)
