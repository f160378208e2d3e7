"""An executor written for mold 0.1, whose workers have a verb for each kind, still runs jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mold_core import GenerateRequest, hookimpl
from mold_core.testing import FakePlugin, SketchFamily, engine_with, sketch_model


class OldWorker:
    """A worker with the verbs of mold 0.1."""

    def __init__(self, family: Any) -> None:
        self.family = family

    def loaded(self) -> frozenset[str]:
        return frozenset()

    def load(self, spec: Any, run: Any) -> None:
        pass

    def unload(self, name: str | None = None) -> tuple[str, ...]:
        return ()

    def generate(self, spec: Any, requests: Sequence[Any], run: Any) -> list[Any]:
        from mold_core.placement.memory import load_context

        made: list[Any] = self.family.load(spec, None, load_context(*self.context, "cpu")).generate(requests, run)
        return made

    def close(self) -> None:
        pass


class OldExecutor:
    name = "old"

    def start(self, device: str, settings: Any, plugins: Any) -> OldWorker:
        worker = OldWorker(plugins.families["sketch"])
        worker.context = (settings, plugins)  # type: ignore[attr-defined]
        return worker


class OldPlugin:
    @hookimpl
    def mold_executors(self) -> list[OldExecutor]:
        return [OldExecutor()]


def test_an_executor_of_0_1_runs_jobs_through_its_verbs() -> None:
    plugin = FakePlugin(families=[SketchFamily()], models=[sketch_model()])
    with (
        pytest.warns(DeprecationWarning, match=r"called run\(task, run\) since mold 0\.2"),
        engine_with(plugin, OldPlugin(), executor="old") as engine,
    ):
        assert len(engine.generate(GenerateRequest(prompt="p", model="sketch")).images) == 1
