"""The interfaces of a worker's tasks and of the host that runs them.

A kind of job defines its tasks in its own module. Workers run any task without knowing its class; a task is pickled
when the worker runs in another process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from mold_core.catalog import ModelSpec
from mold_core.hookspecs import InstalledPlugins, Pipeline, Run, UpscalerNetwork
from mold_core.placement.memory_plan import MemoryPlan
from mold_core.settings import Settings

__all__ = ["WorkerHost", "WorkerTask"]


class WorkerHost(Protocol):
    """The device and the models of a worker, as its tasks use them."""

    @property
    def device(self) -> str:
        """The torch name of the device."""

    @property
    def settings(self) -> Settings:
        """The settings of the engine."""

    @property
    def plugins(self) -> InstalledPlugins:
        """The plugins that are loaded in this process."""

    def pipeline(self, spec: ModelSpec, run: Run, requests: Sequence[Any] = ()) -> Pipeline:
        """Return a loaded model, with enough memory left to compute each of the requests."""

    def plan_of(self, spec: ModelSpec) -> MemoryPlan | None:
        """Return the memory plan of a loaded model; None if its family does not plan."""

    def network(self, spec: ModelSpec, run: Run) -> UpscalerNetwork:
        """Return the loaded network of an upscaler."""

    def make_available(self, size_bytes: int) -> None:
        """Unload models until this amount of device memory is available to the task."""

    def drop_all_but(self, name: str) -> None:
        """Unload all models but one."""


class WorkerTask(Protocol):
    """A picklable piece of work. `spec` and `requests` determine its time limit; its result is picklable too."""

    @property
    def spec(self) -> ModelSpec | None:
        """The model it needs, if any."""

    @property
    def requests(self) -> Sequence[Any]:
        """The requests it computes, if they determine the amount of work."""

    def __call__(self, host: WorkerHost, run: Run) -> Any:
        """Do the work, reporting to `run`, and return the result."""
