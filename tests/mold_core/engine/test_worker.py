"""A worker runs models in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from mold_core import GenerateRequest, LoadContext, Settings, WeightLoad, load_plugins
from mold_core.engine.worker.local import InlineExecutor, LocalWorker
from mold_core.jobs.kinds.generate import GenerateTask
from mold_core.testing import FakePlugin, RecordedRun, SketchFamily, sketch_model

SPEC = sketch_model("a:v1")
REQUEST = GenerateRequest(prompt="p", model="a:v1", width=32, height=32, steps=1, guidance=1.0, seed=1)


class Noting(SketchFamily):
    """Notes how it is loaded, and reports while it is."""

    context: LoadContext

    def load(self, spec: object, files: object, context: LoadContext) -> object:  # type: ignore[override]
        Noting.context = context
        context.report(WeightLoad(bytes_loaded=1, bytes_total=1, component="weights"))
        return super().load(spec, files, context)  # type: ignore[arg-type]


def worker(family: SketchFamily, **settings: object) -> LocalWorker:
    plugins = load_plugins(found=(), extra=[("mine", FakePlugin(families=[family]))])
    return InlineExecutor().start("cpu", Settings(**settings), plugins)  # type: ignore[arg-type]


def test_a_model_is_loaded_for_the_device_with_the_settings(tmp_path: Path) -> None:
    run = RecordedRun()
    worker(Noting(), home=tmp_path, threads=3, compile="off").load(SPEC, run)
    context = Noting.context
    assert (context.compile, context.loaders) == ("off", ())
    assert (context.device, context.threads, context.cache_dir) == ("cpu", 3, tmp_path / "cache")
    assert [type(event).__name__ for event in run.events] == ["StageStart", "WeightLoad", "StageDone"]


def test_models_are_loaded_used_and_unloaded() -> None:
    family = SketchFamily()
    one = worker(family)
    assert one.loaded() == frozenset()
    (made,) = one.run(GenerateTask(SPEC, [REQUEST]), RecordedRun())
    assert made.images[0].size == (32, 32)
    assert one.loaded() == {"a:v1"}
    assert one.unload("b:v1") == ()
    assert one.unload("a:v1") == ("a:v1",)
    assert one.loaded() == frozenset()


def test_all_models_are_unloaded_when_none_is_named() -> None:
    one = worker(SketchFamily())
    for name in ("a:v1", "b:v1"):
        one.load(sketch_model(name), RecordedRun())
    assert one.unload() == ("a:v1", "b:v1")


def test_a_closed_worker_has_freed_everything() -> None:
    family = SketchFamily()
    one = worker(family)
    one.load(SPEC, RecordedRun())
    one.close()
    assert (family.closes, one.loaded()) == (["a:v1"], frozenset())


def test_nothing_is_generated_for_nobody() -> None:
    family = SketchFamily()
    with pytest.raises(Exception, match="the job was cancelled"):
        worker(family).run(GenerateTask(SPEC, [REQUEST]), RecordedRun(cancel_after=0))
    assert family.batches == []
