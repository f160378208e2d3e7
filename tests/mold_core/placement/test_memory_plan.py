"""Plans of what is in memory when: the fastest that fits is taken, with true figures."""

from __future__ import annotations

import pytest

from mold_core import InsufficientMemoryError, MemoryPolicy, ModelComponent, plan_memory
from mold_core.placement.memory_plan import needed_bytes

PARTS = (
    ModelComponent(name="encoder", size_bytes=100, device="cpu", working_bytes=5, streamed_bytes=12),
    ModelComponent(name="transformer", size_bytes=240, device="cpu", working_bytes=10, streamed_bytes=20),
    ModelComponent(name="vae", size_bytes=8, device="cpu", working_bytes=30),
)


@pytest.mark.parametrize(
    ("room", "strategy", "peak"),
    [(1000, "eager", 378), (378, "eager", 378), (377, "sequential", 250), (249, "offload", 38), (38, "offload", 38)],
)
def test_the_fastest_that_fits_is_taken(room: int, strategy: str, peak: int) -> None:
    plan = plan_memory(PARTS, {"cpu": room})
    assert (plan.strategy, plan.peak_bytes("cpu")) == (strategy, peak)


def test_what_fits_in_no_way_is_refused_with_the_least_that_is_needed() -> None:
    with pytest.raises(InsufficientMemoryError, match=r"model 'm' needs 0\.0 GB on cpu.* even with strategy offload"):
        plan_memory(PARTS, {"cpu": 37}, model="m")


def test_a_strategy_that_is_asked_for_is_taken_or_refused() -> None:
    assert plan_memory(PARTS, {"cpu": 1000}, "offload").strategy == "offload"
    with pytest.raises(InsufficientMemoryError, match=r"with strategy eager needs .*; let mold choose"):
        plan_memory(PARTS, {"cpu": 300}, "eager")


def test_devices_are_counted_apart_and_without_an_entry_there_is_no_limit() -> None:
    parts = (
        ModelComponent(name="encoder", size_bytes=100, device="cpu"),
        ModelComponent(name="transformer", size_bytes=240, device="cuda"),
    )
    assert needed_bytes(parts, "eager") == {"cpu": 100, "cuda": 240}
    assert plan_memory(parts, {"cuda": 240}).strategy == "eager"
    with pytest.raises(InsufficientMemoryError, match="on cuda"):
        plan_memory(parts, {"cuda": 239})


def test_only_a_strategy_that_was_asked_for_drops_what_there_is_room_for() -> None:
    assert plan_memory(PARTS, {"cpu": 300}).keep_bytes("cpu") == 270
    assert plan_memory(PARTS, {"cpu": 300}, "sequential").keep_bytes("cpu") == 0


def test_a_part_is_streamed_only_by_offload_and_where_it_can_be() -> None:
    plan = plan_memory(PARTS, {}, "offload")
    assert [plan.streams(part.name) for part in PARTS] == [True, True, False]
    assert [plan.held_bytes(part.name) for part in PARTS] == [12, 20, 8]
    assert not plan_memory(PARTS, {}, "sequential").streams("transformer")
    with pytest.raises(KeyError):
        plan.component("decoder")


def test_the_first_name_that_has_a_device_counts() -> None:
    wishes = MemoryPolicy(devices={"text_encoders": "cpu", "t5": "cuda:1"})
    assert wishes.device_of("t5", "text_encoders", default="cuda") == "cuda:1"
    assert wishes.device_of("clip_l", "text_encoders", default="cuda") == "cpu"
    assert wishes.device_of("vae", default="cuda") == "cuda"
