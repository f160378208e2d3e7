"""GPUs have one name each, are used by their own worker alone, and are asked nothing by other processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from poisoned import FAULT, PoisonedFamily

from mold_core import (
    GenerateRequest,
    InferenceError,
    ModelComponent,
    PlacementComponent,
    Settings,
    load_plugins,
    plan_memory,
)
from mold_core.engine.worker.local import LocalWorker
from mold_core.jobs.kinds import clip_tasks
from mold_core.jobs.kinds.clip_tasks import RenderClipTask
from mold_core.placement import device as device_module
from mold_core.placement import nvml
from mold_core.placement.device import DeviceInfo, choose_devices, torch_name
from mold_core.placement.memory import load_context, memory_report
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

GB = 1_000_000_000


class Cuda(SimpleNamespace):
    """What mold asks of torch.cuda, of GPUs with 24 GB each of which 22 are free; `asked` are the calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gpus: int = 1, free: int = 22 * GB) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.chosen: list[tuple[str, str]] = []
        answers: dict[str, Callable[..., Any]] = {
            "mem_get_info": lambda device: (free, 24 * GB),
            "memory_reserved": lambda device: 0,
            "memory_allocated": lambda device: 0,
            "get_device_name": lambda device: "Pretend 4090",
            "get_device_capability": lambda device=None: (8, 9),
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, self._noting(name, answer))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "set_device", self._set_device)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(device_module, "_may_have_gpu", lambda: True)

    def _noting(self, name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*arguments: Any) -> Any:
            self.asked.append(name)
            return answer(*arguments)

        return ask

    def _set_device(self, device: str) -> None:
        self.chosen.append((threading.current_thread().name.partition("_")[0], device))


ENCODER = PlacementComponent(name="t5", title="the text encoder")


class Family(SketchFamily):
    """A family of two parts, 10 and 9 GB, the first of which can be placed by itself."""

    def components(self, spec: Any, files: Any, context: Any) -> tuple[ModelComponent, ...]:
        where = context.memory_policy.device_of("t5", default=context.device)
        return (
            ModelComponent(name="t5", size_bytes=10 * GB, device=where),
            ModelComponent(name="transformer", size_bytes=9 * GB, device=context.device, working_bytes=GB),
        )


def plugins(family: SketchFamily) -> Any:
    plugin = FakePlugin(families=[family], models=[sketch_model()], placement_components=[ENCODER])
    return load_plugins(found=(), extra=[("mine", plugin)])


@pytest.mark.parametrize("wish", ["cuda", "gpu", "cuda:0", "gpu:0"])
def test_a_gpu_is_budgeted_once_whatever_it_is_called(wish: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Cuda(monkeypatch)
    settings = Settings(home=home, device_t5=wish)
    (device,) = choose_devices(settings)
    context = load_context(settings, plugins(Family()), device)
    assert (device, set(context.available_bytes)) == ("cuda:0", {"cuda:0", "cpu"})
    parts = Family().components(None, None, context)
    assert {part.device for part in parts} == {"cuda:0"}
    assert plan_memory(parts, context.available_bytes).strategy == "sequential"


def test_a_gpu_without_a_number_is_that_of_the_worker() -> None:
    assert [torch_name("cuda", home) for home in ("cuda:1", "cpu", "cuda:0")] == ["cuda:1", "cuda:0", "cuda:0"]
    assert [torch_name(name, "cuda:1") for name in ("cuda:0", "cpu:3", "mps")] == ["cuda:0", "cpu", "mps"]


def test_a_worker_and_each_of_its_threads_computes_on_its_own_gpu(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch, gpus=2)
    found = load_plugins(
        found=(),
        extra=[
            (
                "mine",
                FakePlugin(
                    families=[FlipbookFamily()], models=[flipbook_model()], chain_renderers=[FlipbookRenderer()]
                ),
            )
        ],
    )
    worker = LocalWorker("cuda:1", Settings(home=home), found)
    threads: list[str] = []

    def note(*arguments: Any) -> None:
        threads.append(threading.current_thread().name.partition("_")[0])

    monkeypatch.setattr(clip_tasks, "render_clip", note)
    monkeypatch.setattr(clip_tasks, "encode_clip", note)
    clip: Any = SimpleNamespace(request=GenerateRequest(prompt="p"))
    worker.run(RenderClipTask(flipbook_model(), clip, [clip]), RecordedRun())
    here = threading.current_thread().name.partition("_")[0]
    assert set(threads) == {here, "mold-encode"}
    assert set(cuda.chosen) == {(thread, "cuda:1") for thread in threads}


# --- other processes ---------------------------------------------------------------------------------------------


def report(settings: Settings, known: dict[str, DeviceInfo] | None = None) -> Any:
    from mold_core.catalog import ModelStore

    loaded = plugins(Family())
    return memory_report(Family(), sketch_model(), ModelStore(settings.models_path), settings, loaded, known)


def test_a_server_takes_a_workers_word_for_its_device_and_asks_cuda_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = Cuda(monkeypatch, gpus=2, free=2 * GB)
    monkeypatch.setattr(nvml, "_library", lambda: None)
    settings = Settings(home=home, executor="process")
    full = DeviceInfo(name="a", memory_used_bytes=23 * GB, memory_total_bytes=24 * GB, available_bytes=GB)
    # The model is in memory there: what it takes counts as available to it.
    loaded = DeviceInfo(name="b", memory_used_bytes=22 * GB, memory_total_bytes=24 * GB, available_bytes=22 * GB)
    told = report(settings, {"cuda:0": full, "cuda:1": loaded})
    assert (told.chosen, told.room) == ("sequential", {"cuda:1": 19_200_000_000})
    assert cuda.asked == []


def test_without_a_workers_word_the_system_is_asked_and_else_nothing_is_claimed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = Cuda(monkeypatch, gpus=1)
    settings = Settings(home=home, executor="process")
    monkeypatch.setattr(nvml, "_library", lambda: Library())
    told = report(settings)
    assert (told.chosen, told.room) == ("sequential", {"cuda:0": 11 * GB})
    monkeypatch.setattr(nvml, "_library", lambda: None)
    assert (report(settings).chosen, report(settings).room) == ("eager", {})
    assert cuda.asked == []


class Library:
    """NVML with two GPUs of 24 GB: 11 are free of the first, 3 of the second."""

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:
        handle._obj.value = index + 1
        return 0 if index < 2 else 6

    def nvmlDeviceGetHandleByUUID(self, name: bytes, handle: Any) -> int:
        handle._obj.value = 2
        return 0 if name == b"GPU-b" else 6

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        memory._obj.total, memory._obj.free = 24 * GB, (11 if handle.value == 1 else 3) * GB
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any, major: Any, minor: Any) -> int:
        major._obj.value, minor._obj.value = 8, 6
        return 0


@pytest.mark.parametrize(
    ("visible", "number", "free"),
    [(None, 0, 11), (None, 1, 3), (None, 2, None), ("1,0", 0, 3), ("GPU-b", 0, 3), ("0", 1, None), ("GPU-x", 0, None)],
)
def test_nvml_is_asked_about_the_gpu_that_cuda_means(
    visible: str | None, number: int, free: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "_library", lambda: Library())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    state = nvml.gpu_state(number)
    assert (state and state.free_bytes) == (free and free * GB)
    assert state is None or state.capability == (8, 6)


def test_a_worker_process_tells_what_its_models_could_take() -> None:
    plugin = FakePlugin(families=[SketchFamily(size_bytes=900_000 * GB)], models=[sketch_model()])
    with engine_with(plugin, executor="process", memory_budget_gb=1_000_000) as engine:
        engine.load("sketch")
        info = engine._runners[0].device_info()
        assert info.available_bytes > 900_000 * GB > info.memory_total_bytes > 0


# --- a device that fails -----------------------------------------------------------------------------------------


def test_a_poisoned_device_is_told_of_and_its_worker_replaced() -> None:
    plugin = FakePlugin(families=[PoisonedFamily()], models=[sketch_model()])
    with engine_with(plugin, executor="process") as engine:
        with pytest.raises(InferenceError, match=FAULT):
            engine.generate(GenerateRequest(prompt="poison", model="sketch", seed=1))
        made = engine.generate(GenerateRequest(prompt="a red house", model="sketch", seed=1))
        assert len(made.images) == 1
        assert engine.devices()[0].restarts == 1
