"""Batches are cut to what fits and halved when memory runs out all the same, and the next job works."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import torch

from mold_core import (
    DenoiseStep,
    Frames,
    GenerateRequest,
    Info,
    InsufficientMemoryError,
    ModelComponent,
    ProgressEvent,
    Run,
    Settings,
    load_plugins,
)
from mold_core.engine.worker.local import LocalWorker
from mold_core.jobs.kinds.clip_tasks import RenderClipTask
from mold_core.jobs.kinds.generate import GenerateTask
from mold_core.placement.memory_plan import needed_bytes, plan_memory
from mold_core.testing import (
    FakePlugin,
    FlipbookFamily,
    FlipbookRenderer,
    RecordedRun,
    SketchFamily,
    engine_with,
    flipbook_model,
    sketch_model,
)
from mold_core.weights import is_out_of_memory

MB = 1_000_000


class Ballast:
    """Stands for a tensor of a failed attempt."""


@attrs.define(kw_only=True, eq=False)
class Family(SketchFamily):
    """A family of one part, 100 MB and 1 kB a pixel; memory runs out with more than `fitting` pixels at once."""

    fitting: int = 10**9
    sizes_planned: list[int] = attrs.Factory(list)
    attempts: list[int] = attrs.Factory(list)
    strategies: list[str] = attrs.Factory(list)
    held: list[weakref.ref[Ballast]] = attrs.Factory(list)

    def components(self, spec: Any, files: Any, context: Any) -> tuple[ModelComponent, ...]:
        pixels = spec.defaults.width * spec.defaults.height
        self.sizes_planned.append(pixels)
        return (
            ModelComponent(
                name="transformer",
                size_bytes=100 * MB,
                streamed_bytes=10 * MB,
                device=context.device,
                working_bytes=1000 * pixels,
            ),
        )

    def load(self, spec: Any, files: Any, context: Any) -> Any:
        self.strategies.append(context.plan.strategy)
        return _Pipeline(self, super().load(spec, files, context))


@attrs.define
class _Pipeline:
    family: Family
    sketch: Any

    @property
    def size_bytes(self) -> int:
        return int(self.sketch.size_bytes)

    def generate(self, requests: Sequence[GenerateRequest], run: Run) -> list[Frames]:
        self.family.attempts.append(len(requests))
        ballast = Ballast()
        self.family.held.append(weakref.ref(ballast))
        if sum(request.width * request.height for request in requests) > self.family.fitting:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has …")
        made: list[Frames] = self.sketch.generate(requests, run)
        return made

    def close(self) -> None:
        self.sketch.close()


def plugin(family: SketchFamily) -> FakePlugin:
    return FakePlugin(families=[family], models=[sketch_model()])


def engine_of(family: Family, megabytes: float = 10_000, **settings: Any) -> Any:
    return engine_with(plugin(family), memory_budget_gb=megabytes / 1000, max_batch=8, **settings)


def request(count: int = 1, side: int = 96) -> GenerateRequest:
    return GenerateRequest(
        prompt="a red house", model="sketch", seed=7, batch_size=count, width=side, height=side, steps=2
    )


def test_a_batch_is_cut_to_what_fits_beside_the_weights() -> None:
    family = Family()
    with engine_of(family, 100 + 3 * 10 + 1) as engine:
        made = engine.generate(request(8))
    assert (family.attempts, len(made.images)) == ([3, 3, 2], 8)
    assert family.strategies == ["eager"]


def test_a_large_image_is_planned_as_large_as_it_is() -> None:
    family = Family()
    with engine_of(family, 100 + 2 * 10 + 1) as engine:
        engine.generate(request(1, 96))
        assert family.strategies == ["eager"]
        engine.generate(request(1, 192))  # 40 MB to compute: the weights must be streamed
        assert family.strategies == ["eager", "offload"]
        engine.generate(request(1, 96))
        assert family.strategies == ["eager", "offload"]


def test_an_image_that_can_fit_in_no_way_is_refused_before_it_is_begun() -> None:
    family = Family()
    with engine_of(family, 60) as engine:
        engine.generate(request(1, 96))
        with pytest.raises(InsufficientMemoryError, match=r"needs 0\.1 GB on cpu") as refused:
            engine.generate(request(1, 256))
        assert "smaller size" in str(refused.value.hint)
        assert family.attempts == [1]
        engine.generate(request(1, 96))


def test_a_model_is_loaded_once_for_a_first_request_that_is_large() -> None:
    family = Family()
    with engine_of(family, 100 + 2 * 10 + 1) as engine:
        engine.generate(request(1, 192))
    assert family.strategies == ["offload"]


def test_when_memory_runs_out_the_batch_is_halved_and_all_images_are_made() -> None:
    events: list[ProgressEvent] = []
    family = Family(fitting=20_000)
    with engine_of(family) as engine, engine_of(Family()) as calm:
        made = engine.generate(request(8), events.append)
        assert family.attempts == [8, 4, 2, 2, 2, 2]
        assert made.images == calm.generate(request(8)).images
        told = [event.message for event in events if isinstance(event, Info)]
        assert [message for message in told if "going on with 2 at a time" in message]
        steps = [event for event in events if isinstance(event, DenoiseStep)]
        assert [event.step for event in steps] == list(range(1, 9))
        assert {event.total for event in steps} == {8}


def test_an_image_that_does_not_fit_says_what_to_do_and_the_next_job_works() -> None:
    family = Family(fitting=12_000)
    with engine_of(family) as engine:
        with pytest.raises(InsufficientMemoryError, match=r"Tried to allocate 2\.00 GiB") as failed:
            engine.generate(request(1, 152))
        assert "use a smaller size" in str(failed.value.hint)
        gc.collect()
        assert all(ballast() is None for ballast in family.held)  # although the error is kept
        assert len(engine.generate(request()).images) == 1
        assert engine.loaded() == {"sketch:v1"}


def test_what_other_models_hold_is_given_up_before_a_request_is() -> None:
    family = Family(fitting=12_000)
    plugins = load_plugins(found=(), extra=[("mine", plugin(family))])
    worker = LocalWorker("cpu", Settings(memory_budget_gb=10), plugins)
    worker.load(sketch_model("other:v1"), RecordedRun())
    wanted = attrs.evolve(request(1, 152), model="sketch:v1", guidance=1.0)
    with pytest.raises(InsufficientMemoryError):
        worker.run(GenerateTask(sketch_model(), [wanted]), RecordedRun())
    assert worker.loaded() == {"sketch:v1"}
    assert family.attempts == [1, 1]


def test_errors_of_other_kinds_keep_no_tensors_either() -> None:
    family = Family(error=RuntimeError("boom"))
    with engine_of(family) as engine:
        job = engine.submit(request())
        with pytest.raises(Exception, match="boom"):
            job.result()
        gc.collect()
        assert job.error is not None
        assert all(ballast() is None for ballast in family.held)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CUDA out of memory. Tried to allocate 20 MiB", True),
        ("MPS backend out of memory (MPS allocated: 9 GB)", True),
        ("GET was unable to find an engine to execute this computation", True),
        ("Unable to find a valid cuDNN algorithm to run convolution", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)", True),
        ("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory", True),
        ("CUDA error: an illegal memory access was encountered", False),
        ("shapes cannot be multiplied", False),
    ],
)
def test_running_out_of_memory_is_known_by_what_each_library_says(text: str, expected: bool) -> None:
    assert is_out_of_memory(RuntimeError(text)) is expected


@pytest.mark.parametrize(("device", "called"), [("cuda:1", ["cuda"]), ("mps", ["mps"]), ("cpu", [])])
def test_memory_that_torch_keeps_is_given_back(device: str, called: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from mold_core.weights import release_cached

    seen: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: seen.append("cuda"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: seen.append("mps"))
    release_cached(device)
    assert seen == called


# --- rendering beside decoding -----------------------------------------------------------------------------------

PARTS = (
    ModelComponent(name="transformer", size_bytes=100, device="cuda:0", working_bytes=30),
    ModelComponent(name="vae", size_bytes=10, device="cuda:0", working_bytes=50, together=1),
)


@pytest.mark.parametrize(("room", "both"), [(190, True), (189, False), (160, False)])
def test_two_working_sets_are_added_where_both_compute(room: int, both: bool) -> None:
    assert needed_bytes(PARTS, "eager") == {"cuda:0": 160}
    assert plan_memory(PARTS, {"cuda:0": room}).fits_two() is both


def test_only_what_grows_with_a_batch_is_counted_for_each_request() -> None:
    plan = plan_memory(PARTS, {"cuda:0": 200})
    assert [plan.most_together(count) for count in (1, 2, 3, 8)] == [1, 2, 3, 3]


@pytest.mark.parametrize(("room", "beside"), [(10**9, True), (150, False)])
def test_clips_are_decoded_beside_a_render_only_with_memory_for_both(
    room: int, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mold_core.jobs.kinds import clip_tasks

    class PlacedModel(FlipbookFamily):
        def components(self, spec: Any, files: Any, context: Any) -> tuple[ModelComponent, ...]:
            return tuple(attrs.evolve(part, device=context.device) for part in PARTS)

    found = FakePlugin(families=[PlacedModel()], models=[flipbook_model()], chain_renderers=[FlipbookRenderer()])
    worker = LocalWorker("cpu", Settings(), load_plugins(found=(), extra=[("mine", found)]))
    threads: list[str] = []
    monkeypatch.setattr(clip_tasks, "render_clip", lambda *all: None)
    monkeypatch.setattr(clip_tasks, "encode_clip", lambda *all: threads.append(threading.current_thread().name))
    clip: Any = type("Clip", (), {"request": GenerateRequest(prompt="p")})()
    worker.load(flipbook_model(), RecordedRun())
    worker._plans["flipbook:v1"] = plan_memory(PARTS, {"cuda:0": max(room, 160)})
    worker.device = "mps"  # a device beside which the CPU is free
    monkeypatch.setattr(worker, "pipeline", lambda spec, run, requests: None)
    worker.run(RenderClipTask(flipbook_model(), clip, [clip]), RecordedRun())
    assert [name.startswith("mold-encode") for name in threads] == [beside]
