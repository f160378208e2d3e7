"""Load the components of a model where and how its memory plan says.

A family describes each component as an `EmptyComponent`; `planned_components` does the rest: which device, streamed or
resident, quantised or dequantized, compiled or not, and the progress that is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from attrs import frozen
from torch import Tensor, nn

from mold_core.placement.memory_plan import MemoryPlan
from mold_core.weights import BlockStream, LoadedComponents, LoadProgress, PackedTensor, load_weights
from mold_core.weights.compiled_blocks import worth_compiling
from mold_core.wire import Info

if TYPE_CHECKING:
    from mold_core.hookspecs import LoadContext
    from mold_core.placement.memory_plan import ModelComponent
    from mold_core.wire import ProgressEvent

__all__ = ["EmptyComponent", "load_resident", "memory_for_dequantizing", "memory_plan", "planned_components"]

Report = Callable[["ProgressEvent"], object]


@frozen(kw_only=True, eq=False)
class EmptyComponent:
    """A network without weights, and how it gets them.

    `network` is on the meta device (see `mold_core.weights.empty_modules`). `tensors` are its weights, under the names
    of its parameters. `path` is the file that errors name, and `dtype` what the network computes in.

    `dequantize` makes quantised weights dense, whatever memory that takes. `dequantize_if_spare` makes them dense when
    the setting allows it and the plan has spare memory: useful for the network that runs in every step.
    `stream_units` returns the submodules that are streamed one by one, in the order of their use.
    `prepare` is called with the network once it has its weights. `compile_blocks` is called if compiling the blocks is
    likely to pay.
    """

    network: nn.Module
    tensors: Mapping[str, Tensor | PackedTensor]
    path: Path
    dtype: torch.dtype
    dequantize: bool = False
    dequantize_if_spare: bool = False
    stream_units: Callable[[], Sequence[nn.Module]] = tuple
    prepare: Callable[[nn.Module], object] | None = None
    compile_blocks: Callable[[], object] | None = None


def memory_plan(context: LoadContext, components: Callable[[], Sequence[ModelComponent]]) -> MemoryPlan:
    """Return the plan of a context; without one, a plan that keeps all `components` in memory."""
    return context.plan or MemoryPlan(strategy="eager", components=tuple(components()), available_bytes={})


def planned_components(
    plan: MemoryPlan, context: LoadContext, build: Callable[[str], EmptyComponent]
) -> LoadedComponents:
    """Return the components of a plan, each loaded on its first use; `build` describes a component by its name."""
    loader = _PlanLoader(plan, context, build)
    return LoadedComponents(
        plan, {component.name: partial(loader.load, component.name) for component in plan.components}
    )


def load_resident(components: LoadedComponents, report: Report) -> None:
    """Load the components that the plan keeps in memory from the start: all of them, or none."""
    if components.plan.strategy == "eager":
        components.load_all(report)


def memory_for_dequantizing(plan: MemoryPlan, name: str) -> int:
    """Return the bytes that the dense weights of a component may take. Half of the spare memory is for other models."""
    return plan.held_bytes(name) + plan.spare_bytes(plan.component(name).device) // 2


class _PlanLoader:
    """Loads the components of one model, and adds up what they report."""

    def __init__(self, plan: MemoryPlan, context: LoadContext, build: Callable[[str], EmptyComponent]) -> None:
        self._plan = plan
        self._context = context
        self._build = build
        self._loaded_bytes = 0
        self._total_bytes = sum(component.size_bytes for component in plan.components)

    def load(self, name: str, report: Report) -> tuple[nn.Module, BlockStream | None]:
        """Return a network that is ready to run, and what streams its blocks where the plan says so."""
        device, streamed = self._plan.component(name).device, self._plan.streams(name)
        component, progress = self._build(name), self._progress(name, report)
        network = component.network
        load_weights(
            network,
            component.tensors,
            component.path,
            dtype=component.dtype,
            device="cpu" if streamed else device,
            as_stored=streamed,
            expand=component.dequantize,
            dequantize_within_bytes=self._dequantize_within(name, component),
            compile=self._context.compile,
            compute=self._context.compute,
            runs_on=device,
            cache_dir=self._context.cache_dir,
            progress=progress,
        )
        network.eval().requires_grad_(False)
        if component.prepare is not None:
            component.prepare(network)
        stream = None
        if streamed:
            stream = BlockStream(network, component.stream_units(), device=device, dtype=component.dtype, pin=True)
        else:
            network.to(device)  # buffers that no file holds
        self._compile(name, component, report)
        progress.finish()
        return network, stream

    def _dequantize_within(self, name: str, component: EmptyComponent) -> int | None:
        allowed = component.dequantize_if_spare and self._context.expand_weights == "auto"
        return memory_for_dequantizing(self._plan, name) if allowed and not self._plan.streams(name) else None

    def _compile(self, name: str, component: EmptyComponent, report: Report) -> None:
        planned, compile_blocks = self._plan.component(name), component.compile_blocks
        if compile_blocks is None or not worth_compiling(self._context.compile, planned.device, planned.size_bytes):
            return
        report(Info(message=f"the first step compiles the {name}, and takes longer than those after it"))
        compile_blocks()

    def _progress(self, name: str, report: Report) -> LoadProgress:
        size_bytes = self._plan.component(name).size_bytes
        if self._plan.strategy != "eager":
            return LoadProgress(report, name, size_bytes, size_bytes)
        before, self._loaded_bytes = self._loaded_bytes, self._loaded_bytes + size_bytes
        return LoadProgress(report, name, size_bytes, self._total_bytes, min(before, self._total_bytes))
