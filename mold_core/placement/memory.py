"""Plans how a model is held in memory, from the settings and the memory that is available now."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import attrs

from mold_core.catalog import LocalFiles, ModelDefaults, ModelSpec, ModelStore
from mold_core.catalog.space import in_words
from mold_core.errors import InsufficientMemoryError, SettingsError
from mold_core.hookspecs import InstalledPlugins, LoadContext, ModelFamily
from mold_core.placement.device import (
    DeviceInfo,
    DeviceMemory,
    budget_bytes,
    capability_of,
    choose_devices,
    device_memory,
    torch_name,
)
from mold_core.placement.memory_plan import (
    STRATEGIES,
    MemoryPlan,
    MemoryPolicy,
    ModelComponent,
    Strategy,
    needed_bytes,
    plan_memory,
)
from mold_core.placement.nvml import gpu_state
from mold_core.settings import SHARED_COMPONENTS, Settings
from mold_core.wire import GenerateRequest, ProgressEvent

__all__ = [
    "MemoryReport",
    "explained",
    "load_context",
    "memory_policy_of",
    "memory_report",
    "pixels_of",
    "plan_for",
    "spec_for",
]

_DEVICE = re.compile(r"(?:cpu|mps|(?:cuda|gpu)(?::\d{1,2})?)")


@attrs.frozen(kw_only=True)
class MemoryReport:
    """Whether a model fits into the memory of this machine.

    `room`: the available memory, in bytes by device. `needs`: for each strategy, the peak memory in bytes by device.
    `chosen`: the strategy that would be used, or None if the model does not fit; then `problem` says why.
    """

    parts: tuple[ModelComponent, ...]
    room: Mapping[str, int]
    needs: Mapping[Strategy, Mapping[str, int]]
    chosen: Strategy | None
    problem: str | None

    def fits(self, strategy: Strategy) -> bool:
        """Return whether the model fits into memory with a strategy."""
        return all(
            size_bytes <= self.room.get(device, size_bytes) for device, size_bytes in self.needs[strategy].items()
        )


def memory_report(
    family: ModelFamily,
    spec: ModelSpec,
    store: ModelStore,
    settings: Settings,
    plugins: InstalledPlugins,
    known: Mapping[str, DeviceInfo] | None = None,
) -> MemoryReport | None:
    """Return whether a model, downloaded or not, fits into memory; None if its family does not report components.

    `known` holds the devices as their workers reported them. With worker processes, memory is not queried through
    CUDA, because that would create a context in this process.
    """
    devices = _OutsideView(known or {}, may_ask_torch=settings.executor == "inline")
    device = max(map(torch_name, choose_devices(settings)), key=devices.available_bytes)
    context = load_context(settings, plugins, device, memory_of=devices.memory, capability_of=devices.capability)
    components = tuple(family.components(spec, store.files_of(spec), context))
    if not components:
        return None
    chosen, problem = None, None
    try:
        policy = context.memory_policy
        chosen = plan_memory(components, context.available_bytes, policy.strategy, model=spec.name).strategy
    except InsufficientMemoryError as error:
        problem = str(error)
    return MemoryReport(
        parts=components,
        room={
            component.device: context.available_bytes[component.device]
            for component in components
            if component.device in context.available_bytes
        },
        needs={strategy: needed_bytes(components, strategy) for strategy in STRATEGIES},
        chosen=chosen,
        problem=problem,
    )


@attrs.frozen
class _OutsideView:
    """The devices as a process sees them that does not compute on them: from its workers or from NVML."""

    known: Mapping[str, DeviceInfo]
    may_ask_torch: bool

    def memory(self, device: str) -> DeviceMemory | None:
        """Return the memory of a device; None if unknown."""
        info = self.known.get(device)
        if info is not None and info.available_bytes:
            return DeviceMemory(total_bytes=info.memory_total_bytes, available_bytes=info.available_bytes)
        if not device.startswith("cuda"):
            return device_memory(device)
        state = gpu_state(_number(device))
        if state is not None:
            return DeviceMemory(total_bytes=state.total_bytes, available_bytes=state.free_bytes)
        return device_memory(device) if self.may_ask_torch else None

    def available_bytes(self, device: str) -> int:
        """Return the memory of a device that is available to a model, in bytes; 0 if unknown."""
        memory = self.memory(device)
        return 0 if memory is None else memory.available_bytes

    def capability(self, device: str) -> tuple[int, int] | None:
        """Return the compute capability of a GPU; None if unknown."""
        if not device.startswith("cuda"):
            return None
        info = self.known.get(device)
        if info is not None and info.capability:
            return info.capability
        state = gpu_state(_number(device))
        if state is not None:
            return state.capability
        return capability_of(device) if self.may_ask_torch else None


def _number(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def memory_policy_of(
    settings: Settings, plugins: InstalledPlugins, placed: Mapping[str, str] | None = None, device: str = "cuda:0"
) -> MemoryPolicy:
    """Return the memory policy of the settings; devices in `placed` have priority over those of the settings.

    `settings` must include the values of `plugins`. ``cuda`` without a number is `device` if that is a GPU, else the
    first GPU.

    Raises SettingsError naming the setting.
    """
    if settings.eager and settings.offload:
        raise SettingsError("MOLD_EAGER and MOLD_OFFLOAD contradict each other", field="eager", hint="unset one")
    strategy: str = settings.memory_strategy
    if strategy == "auto" and (settings.eager or settings.offload):
        strategy = "eager" if settings.eager else "offload"
    placed = placed or {}
    groups = {name: component.group for name, component in plugins.placement_components.items()}
    words = {
        name: _device(name, getattr(settings, f"device_{name}"))
        for name in (*SHARED_COMPONENTS, *groups)
        if groups.get(name) not in placed  # placing a group places its components
    }
    return MemoryPolicy(
        strategy=None if strategy == "auto" else cast("Strategy", strategy),
        devices={name: torch_name(word, device) for name, word in {**words, **placed}.items() if word != "auto"},
        variants={
            row.variant_of: getattr(settings, row.name)
            for row in plugins.settings
            if row.variant_of is not None and getattr(settings, row.name) != row.default
        },
    )


def load_context(
    settings: Settings,
    plugins: InstalledPlugins,
    device: str,
    report: Callable[[ProgressEvent], None] = lambda event: None,
    *,
    held_bytes: int = 0,
    placed: Mapping[str, str] | None = None,
    memory_of: Callable[[str], DeviceMemory | None] = device_memory,
    capability_of: Callable[[str], tuple[int, int] | None] = capability_of,
) -> LoadContext:
    """Return the context for loading a model on a device now.

    `held_bytes` is the memory of loaded models on the device, which can be unloaded; `placed` maps components to their
    requested devices. The memory of a device is unlimited if it cannot be determined.
    """
    settings = plugins.read_settings(settings)
    policy = memory_policy_of(settings, plugins, placed, device)
    memory = {name: memory_of(name) for name in (device, *sorted({*policy.devices.values(), "cpu"} - {device}))}
    available = {name: state.available_bytes for name, state in memory.items() if state is not None}
    device_state = memory[device]
    if settings.memory_budget_gb is not None:
        available[device] = budget_bytes(settings, device, 0)
    elif device_state is not None:
        budget = budget_bytes(settings, device, device_state.total_bytes)
        available[device] = min(budget, device_state.available_bytes + held_bytes)
    capabilities = {name: capability_of(name) for name in memory}
    return LoadContext(
        device=device,
        threads=settings.threads,
        cache_dir=settings.home / "cache",
        report=report,
        loaders=plugins.loaders,
        compile=settings.compile,
        compute=settings.compute,
        expand_weights=settings.expand_weights,
        attention=settings.attention,
        cuda_graphs=settings.cuda_graphs,
        memory_policy=policy,
        available_bytes=available,
        capabilities={name: capability for name, capability in capabilities.items() if capability is not None},
        settings={**settings.plugin_defaults, **settings.plugin_values},
    )


def plan_for(family: ModelFamily, spec: ModelSpec, files: LocalFiles, context: LoadContext) -> MemoryPlan | None:
    """Return the memory plan of a model, or None if the family does not report components.

    Raises InsufficientMemoryError if no strategy fits, or if the requested one does not.
    """
    components = tuple(family.components(spec, files, context))
    if not components:
        return None
    return plan_memory(components, context.available_bytes, context.memory_policy.strategy, model=spec.name)


def spec_for(spec: ModelSpec, requests: Sequence[GenerateRequest]) -> ModelSpec:
    """Return a model whose default size is at least that of each request, because memory is planned for that size."""
    largest = max((attrs.evolve(spec.defaults, **_size(request)) for request in requests), key=_pixels, default=None)
    if largest is None or _pixels(largest) <= _pixels(spec.defaults):
        return spec
    return attrs.evolve(spec, defaults=largest)


def pixels_of(spec: ModelSpec) -> int:
    """Return the number of pixels of all frames at a model's default size."""
    return _pixels(spec.defaults)


def _size(request: GenerateRequest) -> dict[str, int]:
    size = {"width": request.width, "height": request.height, "frames": request.frames}
    return {name: value for name, value in size.items() if value is not None}


def _pixels(size: ModelDefaults) -> int:
    return (size.width or 0) * (size.height or 0) * (size.frames or 1)


def explained(plan: MemoryPlan, device: str, name: str) -> str | None:
    """Return a sentence on why a model is not loaded as a whole; None if it is, or if the user chose the strategy."""
    if plan.strategy == "eager" or plan.requested:
        return None
    how = "part by part" if plan.strategy == "sequential" else "part by part and block by block, which is slower"
    whole = needed_bytes(plan.components, "eager").get(device, 0)
    return (
        f"{name} is loaded {how}: as a whole it needs {in_words(whole)}, "
        f"and {in_words(plan.available_bytes.get(device, 0))} are available (mold info {name})"
    )


def _device(name: str, value: str) -> str:
    word = value.strip().lower()
    if word != "auto" and not _DEVICE.fullmatch(word):
        raise SettingsError(
            f"device_{name} must be auto, cpu, cuda, cuda:N or mps, not {value!r}", field=f"device_{name}", value=value
        )
    return word.replace("gpu", "cuda")
