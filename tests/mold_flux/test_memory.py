"""However a model is held in memory, it draws the same image, and takes what the plan says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mold_core import (
    CacheHit,
    Engine,
    GenerateRequest,
    Info,
    InsufficientMemoryError,
    LoadContext,
    MemoryPlan,
    Settings,
    StageStart,
    WeightLoad,
)
from mold_core.placement.memory_plan import needed_bytes
from mold_core.testing import RecordedRun

NANO = "flux-nano:bf16"
REQUEST = GenerateRequest(
    prompt="a red house under a yellow moon", model=NANO, width=128, height=128, steps=2, guidance=0.0, seed=7
)


@pytest.fixture(scope="module")
def expected() -> bytes:
    return drawn()


def drawn(events: list[object] | None = None, **settings: object) -> bytes:
    with Engine(Settings(device="cpu", **settings)) as engine:  # type: ignore[arg-type]
        return engine.generate(REQUEST, None if events is None else events.append).images[0].data


def plan(strategy: str | None = None, room: dict[str, int] | None = None) -> MemoryPlan:
    from mold_core import plan_memory

    with Engine(Settings(device="cpu")) as engine:
        spec = engine.resolve(NANO)
        context = LoadContext(device="cpu", threads=1, cache_dir=Path(), report=lambda event: None)
        parts = engine.family_of(spec).components(spec, engine.store.files_of(spec), context)  # type: ignore[attr-defined]
    return plan_memory(parts, room or {}, strategy)  # type: ignore[arg-type]


@pytest.fixture
def pipelines() -> Iterator[object]:
    """Load flux-nano by a plan."""
    made = []
    with Engine(Settings(device="cpu")) as engine:
        spec = engine.resolve(NANO)

        def load(held: MemoryPlan):  # type: ignore[no-untyped-def]
            context = LoadContext(device="cpu", threads=1, cache_dir=Path(), report=lambda event: None, plan=held)
            made.append(engine.family_of(spec).load(spec, engine.store.files_of(spec), context))
            return made[-1]

        yield load
    for pipeline in made:
        pipeline.close()


@pytest.mark.parametrize("strategy", ["eager", "sequential", "offload"])
def test_a_strategy_does_not_change_the_image(strategy: str, expected: bytes) -> None:
    assert drawn(memory_strategy=strategy) == expected


class Watching(RecordedRun):
    """Notes the most that a pipeline holds, at every event."""

    def __init__(self, pipeline: object) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.most = 0
        self.held: list[tuple[str, ...]] = []

    def report(self, event: object) -> None:
        super().report(event)  # type: ignore[arg-type]
        self.most = max(self.most, self.pipeline.size_bytes)  # type: ignore[attr-defined]
        self.held.append(self.pipeline.components.names)  # type: ignore[attr-defined]

    def step(self, step: int, total: int, elapsed_ms: int) -> None:
        self.most = max(self.most, self.pipeline.size_bytes)  # type: ignore[attr-defined]
        self.held.append(self.pipeline.components.names)  # type: ignore[attr-defined]
        super().step(step, total, elapsed_ms)


@pytest.mark.parametrize("strategy", ["eager", "sequential", "offload"])
def test_a_pipeline_takes_what_its_plan_says(strategy: str, pipelines: object) -> None:
    held = plan(strategy)
    pipeline = pipelines(held)  # type: ignore[operator]
    run = Watching(pipeline)
    pipeline.generate([REQUEST], run)
    weights = {
        "eager": sum(part.size_bytes for part in held.components),
        "sequential": max(part.size_bytes for part in held.components),
        "offload": held.held_bytes("transformer"),
    }[strategy]
    assert run.most == pytest.approx(weights, rel=0.02)
    assert run.most <= pipeline.peak_bytes


def test_strategies_take_less_and_less() -> None:
    parts = plan().components
    eager, sequential, offload = (
        needed_bytes(parts, strategy)["cpu"] for strategy in ("eager", "sequential", "offload")
    )
    assert eager > sequential > offload


def test_text_encoders_are_gone_before_the_transformer_comes(pipelines: object) -> None:
    pipeline = pipelines(plan("sequential"))  # type: ignore[operator]
    run = Watching(pipeline)
    pipeline.generate([REQUEST], run)
    assert ("transformer",) in run.held
    assert all(len(names) <= 1 for names in run.held)
    assert pipeline.size_bytes == 0


def test_a_known_prompt_needs_no_text_encoder(pipelines: object) -> None:
    pipeline = pipelines(plan("sequential"))  # type: ignore[operator]
    pipeline.generate([REQUEST], RecordedRun())
    run = RecordedRun()
    pipeline.generate([REQUEST], run)
    assert CacheHit(resource="prompt conditioning") in run.events
    assert [event.component for event in run.events if isinstance(event, WeightLoad)] == ["transformer", "vae"]
    assert not any(isinstance(event, StageStart) and event.name == "Encoding prompt" for event in run.events)


def test_with_room_for_the_transformer_it_stays_for_the_next_image(pipelines: object) -> None:
    parts = plan().components
    room = needed_bytes(parts, "eager")["cpu"] - 1
    pipeline = pipelines(plan(room={"cpu": room}))  # type: ignore[operator]
    pipeline.generate([REQUEST], RecordedRun())
    assert {"transformer", "vae"} <= set(pipeline.components.names)
    run = RecordedRun()
    pipeline.generate([REQUEST], run)
    assert not any(isinstance(event, WeightLoad) for event in run.events)


def test_where_the_whole_does_not_fit_it_comes_part_by_part_and_that_is_said(expected: bytes) -> None:
    parts = plan().components
    for strategy, words in (("sequential", "part by part:"), ("offload", "part by part and block by block")):
        events: list[object] = []
        room_gb = needed_bytes(parts, strategy)["cpu"] * 1.001 / 1e9  # type: ignore[arg-type]
        assert drawn(events, memory_budget_gb=room_gb) == expected
        assert any(isinstance(event, Info) and words in event.message for event in events), strategy


def test_what_fits_in_no_way_is_refused() -> None:
    with pytest.raises(InsufficientMemoryError, match="even with strategy offload"):
        drawn(memory_budget_gb=0.001)


def test_a_part_on_another_device_is_placed_there() -> None:
    with Engine(Settings(device="cpu", device_t5="meta")) as engine, pytest.raises(Exception, match="device_t5"):
        engine.generate(REQUEST)
    context = LoadContext(device="cpu", threads=1, cache_dir=Path(), report=lambda event: None)
    assert torch.device(context.memory_policy.device_of("t5", default=context.device)).type == "cpu"
