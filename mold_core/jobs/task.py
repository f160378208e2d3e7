"""Work for a worker, and what it uses where the worker runs.

A kind of job defines its tasks in its own module. Workers carry them without knowing them: a task is pickled where the
worker lives in another process.
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
    """The device and the models of a worker, for the tasks that it runs."""

    @property
    def device(self) -> str:
        """The torch name of the device."""

    @property
    def settings(self) -> Settings:
        """The settings of the engine."""

    @property
    def plugins(self) -> InstalledPlugins:
        """The plugins, loaded in this process."""

    def pipeline(self, spec: ModelSpec, run: Run, requests: Sequence[Any] = ()) -> Pipeline:
        """Return a model in memory, loaded if need be, with memory left to compute each of the requests."""

    def plan_of(self, spec: ModelSpec) -> MemoryPlan | None:
        """Return how a loaded model is held in memory; None where its family does not plan."""

    def network(self, spec: ModelSpec, run: Run) -> UpscalerNetwork:
        """Return the network of an upscaler, loaded if need be."""

    def make_available(self, size_bytes: int) -> None:
        """Unload models until a task may take so much memory of the device."""

    def drop_all_but(self, name: str) -> None:
        """Unload all models but one."""


class WorkerTask(Protocol):
    """A picklable piece of work. `spec` and `requests` tell how long it may take; what it returns is picklable too."""

    @property
    def spec(self) -> ModelSpec | None:
        """The model it needs, if any."""

    @property
    def requests(self) -> Sequence[Any]:
        """The requests it computes, if they say how much work it is."""

    def __call__(self, host: WorkerHost, run: Run) -> Any:
        """Do the work, reporting to `run`, and return the result."""
