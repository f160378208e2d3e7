"""The components of a model in memory: loaded on use, and dropped when the plan says so."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Condition, get_ident
from typing import TYPE_CHECKING

import attrs
import torch
from torch import nn

from mold_core.weights.out_of_memory import release_cached
from mold_core.weights.streaming import BlockStream, tensors_of

if TYPE_CHECKING:
    from mold_core.placement.memory_plan import MemoryPlan
    from mold_core.wire import ProgressEvent

__all__ = ["ComponentLoader", "LoadedComponents"]

Report = Callable[["ProgressEvent"], object]
# Takes a callback for progress events. Returns a component on its device, and the stream of its blocks or None.
ComponentLoader = Callable[[Report], "tuple[nn.Module, BlockStream | None]"]


@attrs.frozen
class _Resident:
    """A component in memory. It is measured once, because iterating over thousands of tensors takes long."""

    module: nn.Module
    stream: BlockStream | None
    size_bytes: int

    @classmethod
    def of(cls, module: nn.Module, stream: BlockStream | None) -> _Resident:
        """Measure a component: its tensors, or the ones that its stream keeps on the device."""
        if stream is not None:
            return cls(module, stream, stream.size_bytes)
        return cls(module, None, sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(module)))


class LoadedComponents:
    """Keeps the components of a model in memory as its `MemoryPlan` says.

        with components.use("transformer", run.report) as transformer:
            ...

    Loading a component first drops others to free memory: least recently used first, and as few as the plan allows. A
    reference to a component that outlives the `with` block keeps its memory.

    Several threads may use components. If a component does not fit into memory, its thread waits until other threads
    release theirs. So a thread that uses a component must not wait for a thread that needs another.
    """

    def __init__(self, plan: MemoryPlan, loaders: Mapping[str, ComponentLoader]) -> None:
        self.plan = plan
        self._loaders = dict(loaders)
        self._loaded: OrderedDict[str, _Resident] = OrderedDict()
        self._in_use: list[tuple[str, int]] = []  # with the thread
        self._changed = Condition()

    @property
    def names(self) -> tuple[str, ...]:
        """The components in memory, least recently used first."""
        return tuple(self._loaded)

    def size_bytes(self, device: str | None = None) -> int:
        """Return the memory of the weights that are loaded now, on one device or on all, in bytes."""
        return sum(
            resident.size_bytes
            for name, resident in tuple(self._loaded.items())
            if device is None or self.plan.component(name).device == device
        )

    def load_all(self, report: Report) -> None:
        """Load every component that is not in memory."""
        with self._changed:
            for name in self._loaders:
                self._load(name, report)

    @contextmanager
    def use(self, name: str, report: Report) -> Iterator[nn.Module]:
        """Provide a component inside the block. `report` receives the progress of loading. The loader may raise."""
        used = name, get_ident()
        with self._changed:
            module = self._load(name, report)
            self._in_use.append(used)
        try:
            yield module
        finally:
            with self._changed:
                del module
                self._in_use.remove(used)
                self._free_memory(self.plan.component(name).device, 0)
                self._changed.notify_all()

    def drop(self, name: str) -> None:
        """Free a component; nothing happens if it is not in memory."""
        with self._changed:
            resident = self._loaded.pop(name, None)
            if resident is None:
                return
            if resident.stream is not None:
                resident.stream.close()
            resident.module.to("meta")
        release_cached(self.plan.component(name).device)

    def close(self) -> None:
        """Free every component."""
        for name in self.names:
            self.drop(name)

    def _load(self, name: str, report: Report) -> nn.Module:
        device, needed_bytes = self.plan.component(name).device, self.plan.held_bytes(name)
        while name not in self._loaded:
            if not self._free_memory(device, needed_bytes) and self._others_use(device):
                self._changed.wait()
                continue
            with torch.inference_mode(False), torch.no_grad():  # the weights are also used outside of inference mode
                self._loaded[name] = _Resident.of(*self._loaders[name](report))
        self._loaded.move_to_end(name)
        return self._loaded[name].module

    def _others_use(self, device: str) -> bool:
        """Return whether another thread uses a component on a device."""
        return any(self.plan.component(name).device == device for name, thread in self._in_use if thread != get_ident())

    def _free_memory(self, device: str, needed_bytes: int) -> bool:
        """Drop unused components until the others and `needed_bytes` fit the plan.

        Return whether that was possible.
        """
        in_use = {name for name, _ in self._in_use}
        for name in self.names:
            if self.size_bytes(device) + needed_bytes <= self.plan.keep_bytes(device):
                return True
            if name not in in_use and self.plan.component(name).device == device:
                self.drop(name)
        return self.size_bytes(device) + needed_bytes <= self.plan.keep_bytes(device)
