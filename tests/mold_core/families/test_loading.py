"""Components described by a family are loaded as the memory plan says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mold_core import Frames, Info, InsufficientMemoryError, LoadContext, MemoryPlan, ModelComponent, WeightLoad
from mold_core.families import ComponentPipeline, EmptyComponent, load_resident, memory_plan, planned_components
from mold_core.placement.memory_plan import Strategy
from mold_core.testing import RecordedRun
from mold_core.weights import PackedLinear, empty_modules, read_weights

WIDTH = 16
SIZE_BYTES = 2 * WIDTH * WIDTH  # fp8


class Blocks(nn.Module):
    """Two layers, which can be streamed."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    weights = {f"blocks.{index}.weight": torch.randn(WIDTH, WIDTH).to(torch.float8_e4m3fn) for index in range(2)}
    save_file(weights, tmp_path / "blocks.safetensors")
    return tmp_path / "blocks.safetensors"


def context(**changes: Any) -> LoadContext:
    empty = LoadContext(device="cpu", threads=1, cache_dir=Path("/nowhere"), report=lambda event: None, compile="off")
    return attrs.evolve(empty, **changes)


def plan(strategy: Strategy = "eager", available_bytes: int = 0) -> MemoryPlan:
    parts = [
        ModelComponent(name=name, size_bytes=SIZE_BYTES, device="cpu", streamed_bytes=SIZE_BYTES // 2)
        for name in ("encoder", "transformer")
    ]
    return MemoryPlan(strategy=strategy, components=tuple(parts), available_bytes={"cpu": available_bytes})


def described(file: Path, **changes: Any) -> EmptyComponent:
    with empty_modules():
        network = Blocks()
    component = EmptyComponent(
        network=network,
        tensors=read_weights(file),
        path=file,
        dtype=torch.float32,
        stream_units=lambda: list(network.blocks),
    )
    return attrs.evolve(component, **changes)


def expected(file: Path, x: Tensor) -> Tensor:
    from safetensors.torch import load_file

    weights = load_file(file)
    return x @ weights["blocks.0.weight"].float().T @ weights["blocks.1.weight"].float().T


@pytest.mark.parametrize("strategy", ["eager", "sequential", "offload"])
def test_a_component_computes_the_same_under_every_strategy(file: Path, strategy: Strategy) -> None:
    components = planned_components(plan(strategy), context(), lambda name: described(file))
    load_resident(components, print)
    assert components.names == (("encoder", "transformer") if strategy == "eager" else ())
    x = torch.randn(3, WIDTH)
    with components.use("transformer", lambda event: None) as network:
        torch.testing.assert_close(network(x), expected(file, x))
        assert not network.training
        assert not any(weight.requires_grad for weight in network.parameters())
    components.close()


@pytest.mark.parametrize(
    ("setting", "available_bytes", "layer"),
    [("auto", 10**9, nn.Linear), ("auto", 0, PackedLinear), ("never", 10**9, PackedLinear)],
)
def test_weights_are_dequantized_once_if_there_is_memory_for_it(
    file: Path, setting: Any, available_bytes: int, layer: type[nn.Module]
) -> None:
    components = planned_components(
        plan(available_bytes=available_bytes),
        context(expand_weights=setting),
        lambda name: described(file, dequantize_if_spare=name == "transformer"),
    )
    with components.use("transformer", print) as network, components.use("encoder", print) as encoder:
        assert type(network.blocks[0]) is layer  # type: ignore[index]
        assert type(encoder.blocks[0]) is PackedLinear  # type: ignore[index]


def test_progress_adds_up_over_the_components(file: Path) -> None:
    events: list[Any] = []
    components = planned_components(plan(), context(), lambda name: described(file))
    load_resident(components, events.append)
    loaded = [event for event in events if isinstance(event, WeightLoad)]
    assert [(event.component, event.bytes_loaded, event.bytes_total) for event in loaded] == [
        ("encoder", SIZE_BYTES, 2 * SIZE_BYTES),
        ("transformer", 2 * SIZE_BYTES, 2 * SIZE_BYTES),
    ]


@pytest.mark.parametrize(("mode", "compiled"), [("on", ["encoder", "transformer"]), ("off", [])])
def test_blocks_are_compiled_once_the_network_has_weights(file: Path, mode: Any, compiled: list[str]) -> None:
    done: list[str] = []
    events: list[Any] = []

    def build(name: str) -> EmptyComponent:
        component = described(file, prepare=lambda network: done.append(f"prepared {name}"))
        return attrs.evolve(component, compile_blocks=lambda: done.append(name))

    load_resident(planned_components(plan(), context(compile=mode), build), events.append)
    assert [name for name in done if not name.startswith("prepared")] == compiled
    assert done[0] == "prepared encoder"
    assert sum("compiles the transformer" in event.message for event in events if isinstance(event, Info)) == bool(
        compiled
    )


def test_a_context_without_a_plan_keeps_everything_in_memory() -> None:
    parts = plan().components
    assert memory_plan(context(), lambda: parts) == MemoryPlan(strategy="eager", components=parts, available_bytes={})
    asked = plan("sequential")

    def never() -> tuple[ModelComponent, ...]:
        raise InsufficientMemoryError("the plan is made already")

    assert memory_plan(context(plan=asked), never) is asked


class BlocksPipeline(ComponentPipeline):
    """The smallest pipeline there is."""

    def generate(self, requests: Any, run: Any) -> list[Frames]:
        with self.network("transformer", run) as network:
            network(torch.zeros(1, WIDTH))
        return []


def test_a_pipeline_measures_and_frees_its_components(file: Path) -> None:
    components = planned_components(plan("sequential", 10**9), context(), lambda name: described(file))
    pipeline = BlocksPipeline(components, budget_device="cpu")
    assert pipeline.size_bytes == 0
    pipeline.generate([], RecordedRun())
    assert 0 < pipeline.size_bytes <= pipeline.peak_bytes == SIZE_BYTES
    assert pipeline.text_variant(()) == ()
    larger = plan("sequential", 2 * 10**9)
    pipeline.replan(larger)
    assert pipeline.components.plan is larger
    pipeline.close()
    assert pipeline.size_bytes == 0
