"""Plans when the components of a model are in memory: three strategies, the memory of each, and the first that fits.

- ``eager``: all components stay in memory.
- ``sequential``: a component is loaded when it is used, and unloaded before the next one is loaded.
- ``offload``: as sequential, and components that can be streamed have only a few blocks on the device at a time.

This module depends on no model family and does not import torch. Families report the size of their components
(`ModelComponent`), measured from the headers of the files; the engine reports the available memory; `plan_memory`
compares the two.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import attrs

from mold_core.deprecated import renamed_arguments, renamed_fields
from mold_core.errors import InsufficientMemoryError

__all__ = ["STRATEGIES", "MemoryPlan", "MemoryPolicy", "ModelComponent", "Strategy", "needed_bytes", "plan_memory"]

Strategy = Literal["eager", "sequential", "offload"]

# From the fastest, which needs the most memory, to the slowest.
STRATEGIES: tuple[Strategy, ...] = ("eager", "sequential", "offload")


@attrs.frozen(kw_only=True)
class ModelComponent:
    """A component of a model, loaded as a whole: a text encoder, a transformer, an autoencoder.

    `size_bytes`: its weights in memory on `device` (a torch device name). `working_bytes`: the additional memory of
    computing one request of the planned size. `together`: the maximum number of requests of a batch that it computes
    simultaneously; None means all of them. `streamed_bytes`: the memory of its weights on the device when they are
    streamed block by block; None if they cannot be streamed. `files`: the files that it is loaded from.
    """

    name: str
    size_bytes: int
    device: str
    working_bytes: int = 0
    streamed_bytes: int | None = None
    files: tuple[Path, ...] = ()
    together: int | None = None

    def working_bytes_for(self, requests: int) -> int:
        """Return the memory in bytes that computing a batch needs in addition to the weights."""
        return self.working_bytes * (requests if self.together is None else min(requests, self.together))


@attrs.frozen(kw_only=True)
class MemoryPolicy:
    """The user's choices about memory; mold chooses the rest so that the model fits.

    `devices` maps names of components, or of groups of them, to torch device names; a family declares the names.
    `variants` maps names of components to the tag of the file to use if there are several (``{"encoder": "q8"}``).
    """

    strategy: Strategy | None = None
    devices: Mapping[str, str] = attrs.Factory(dict)
    variants: Mapping[str, str] = attrs.Factory(dict)

    def device_of(self, *names: str, default: str) -> str:
        """Return the device requested for the first of the names that has one, else `default`."""
        return next((self.devices[name] for name in names if name in self.devices), default)


@renamed_fields(parts="components", part="component", room="available_bytes", asked="requested")
@attrs.frozen(kw_only=True)
class MemoryPlan:
    """How a model is held in memory. `available_bytes` is the memory it may use, in bytes by device.

    `requested` means that the user requested the strategy, which is then followed exactly. Otherwise, the components of
    a sequential plan stay in memory as long as they fit.
    """

    strategy: Strategy
    components: tuple[ModelComponent, ...]
    available_bytes: Mapping[str, int]
    requested: bool = False

    def component(self, name: str) -> ModelComponent:
        """Return one component. Raises KeyError."""
        for component in self.components:
            if component.name == name:
                return component
        raise KeyError(name)

    def streams(self, name: str) -> bool:
        """Return whether the blocks of a component are streamed to its device."""
        return self.strategy == "offload" and self.component(name).streamed_bytes is not None

    def held_bytes(self, name: str) -> int:
        """Return the memory in bytes of a component's weights on its device while it is used."""
        component = self.component(name)
        return component.streamed_bytes or 0 if self.streams(name) else component.size_bytes

    def keep_bytes(self, device: str) -> int:
        """Return how many bytes of components may stay on a device after use."""
        if self.strategy == "eager":
            return sys.maxsize
        if self.requested:
            return 0
        working = max((one.working_bytes for one in self.components if one.device == device), default=0)
        return max(0, self.available_bytes.get(device, 0) - working)

    def spare_bytes(self, device: str) -> int:
        """Return the memory in bytes left on a device when all is loaded; 0 if the plan never loads everything."""
        if self.strategy != "eager" or device not in self.available_bytes:
            return 0
        return max(0, self.available_bytes[device] - self.peak_bytes(device))

    def peak_bytes(self, device: str) -> int:
        """Return the peak memory of the plan on a device in bytes: weights and working memory."""
        return needed_bytes(self.components, self.strategy).get(device, 0)

    def most_together(self, requests: int) -> int:
        """Return how many of this number of requests fit into memory in one batch; at least one."""
        fitting = (
            count
            for count in range(requests, 1, -1)
            if _fits(needed_bytes(self.components, self.strategy, requests=count), self.available_bytes)
        )
        return next(fitting, 1)

    def fits_two(self) -> bool:
        """Return whether two components may compute at the same time, such as the decoder and the transformer."""
        return _fits(needed_bytes(self.components, self.strategy, at_once=2), self.available_bytes)


def needed_bytes(
    components: Sequence[ModelComponent], strategy: Strategy, *, requests: int = 1, at_once: int = 1
) -> dict[str, int]:
    """Return the peak memory of a model under a strategy, in bytes by device.

    `requests` is the number of requests in a batch, `at_once` the number of components that compute at the same time.
    """
    needed: dict[str, int] = {}
    for device in dict.fromkeys(component.device for component in components):
        here = [component for component in components if component.device == device]
        working = [component.working_bytes_for(requests) for component in here]
        if strategy == "eager":
            needed[device] = sum(component.size_bytes for component in here) + _largest(working, at_once)
        else:
            alone = [
                _weight_bytes(component, strategy) + bytes_ for component, bytes_ in zip(here, working, strict=True)
            ]
            needed[device] = _largest(alone, at_once)
    return needed


@renamed_arguments(parts="components", room="available_bytes", wanted="requested")
def plan_memory(
    components: Sequence[ModelComponent],
    available_bytes: Mapping[str, int],
    requested: Strategy | None = None,
    *,
    model: str = "the model",
) -> MemoryPlan:
    """Return the fastest plan that fits into `available_bytes` (by device; a device without an entry has no limit).

    With `requested`, only that strategy is considered. Raises InsufficientMemoryError, which says how much is needed.
    """
    for strategy in STRATEGIES if requested is None else (requested,):
        needed = needed_bytes(components, strategy)
        if _fits(needed, available_bytes):
            return MemoryPlan(
                strategy=strategy,
                components=tuple(components),
                available_bytes=dict(available_bytes),
                requested=requested is not None,
            )
    raise _too_large(components, available_bytes, requested, model)


def _weight_bytes(component: ModelComponent, strategy: Strategy) -> int:
    streamed = strategy == "offload" and component.streamed_bytes is not None
    return component.streamed_bytes or 0 if streamed else component.size_bytes


def _largest(sizes: Sequence[int], count: int) -> int:
    """Return the sum of the `count` largest numbers."""
    return sum(sorted(sizes, reverse=True)[:count])


def _fits(needed: Mapping[str, int], available_bytes: Mapping[str, int]) -> bool:
    """Return whether bytes by device fit; a device without an entry in `available_bytes` has no limit."""
    return all(size_bytes <= available_bytes.get(device, size_bytes) for device, size_bytes in needed.items())


def _too_large(
    components: Sequence[ModelComponent], available_bytes: Mapping[str, int], requested: Strategy | None, model: str
) -> InsufficientMemoryError:
    strategy = requested or STRATEGIES[-1]
    over = {
        device: size_bytes
        for device, size_bytes in needed_bytes(components, strategy).items()
        if size_bytes > available_bytes.get(device, size_bytes)
    }
    needs = " and ".join(
        f"{size_bytes / 1e9:.1f} GB on {device}, where the budget is {available_bytes[device] / 1e9:.1f} GB"
        for device, size_bytes in over.items()
    )
    hint = (
        "let mold choose how it is held in memory (leave the strategy out)"
        if requested is not None and requested != STRATEGIES[-1]
        else "use a smaller tag (mold list) or a smaller size, or raise MOLD_MEMORY_BUDGET_GB"
    )
    return InsufficientMemoryError(
        f"model {model!r} needs {needs}, even with strategy {strategy}"
        if requested is None
        else f"model {model!r} with strategy {strategy} needs {needs}",
        field="model",
        value=model,
        hint=hint,
    )
