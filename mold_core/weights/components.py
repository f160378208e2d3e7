"""The parts of one model in memory: loaded when they are used, dropped when the plan says so."""

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
# Given who is told of progress: returns a part on its device, and what streams its blocks if the plan says so.
ComponentLoader = Callable[[Report], "tuple[nn.Module, BlockStream | None]"]


@attrs.frozen
class _Held:
    """A part in memory, measured once: going over thousands of tensors each time that it is used takes long."""

    module: nn.Module
    stream: BlockStream | None
    size_bytes: int

    @classmethod
    def of(cls, module: nn.Module, stream: BlockStream | None) -> _Held:
        """Measure a part: its tensors, or what its stream has on the device."""
        if stream is not None:
            return cls(module, stream, stream.size_bytes)
        return cls(module, None, sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(module)))


class LoadedComponents:
    """Holds the parts of a model as its `MemoryPlan` says.

        with parts.use("transformer", run.report) as transformer:
            ...

    A part that is not in memory is loaded, after others have been dropped to make room: least recently used first, as
    few as the plan allows. Whoever keeps a reference to a part after the `with` keeps its memory.

    Several threads may use parts: one that wants a part for which there is no room waits until the others need theirs
    no longer. So a thread that uses a part must not wait for one that wants another.
    """

    def __init__(self, plan: MemoryPlan, loaders: Mapping[str, ComponentLoader]) -> None:
        self.plan = plan
        self._loaders = dict(loaders)
        self._loaded: OrderedDict[str, _Held] = OrderedDict()
        self._in_use: list[tuple[str, int]] = []  # with the thread
        self._changed = Condition()

    @property
    def names(self) -> tuple[str, ...]:
        """The parts in memory, least recently used first."""
        return tuple(self._loaded)

    def size_bytes(self, device: str | None = None) -> int:
        """Return the memory of the weights that are held now, on one device or on all."""
        return sum(
            held.size_bytes
            for name, held in tuple(self._loaded.items())
            if device is None or self.plan.component(name).device == device
        )

    def load_all(self, report: Report) -> None:
        """Load every part that is not in memory."""
        with self._changed:
            for name in self._loaders:
                self._load(name, report)

    @contextmanager
    def use(self, name: str, report: Report) -> Iterator[nn.Module]:
        """Give a part; `report` is told of loading it. Raises what its loader raises."""
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
                self._make_room(self.plan.component(name).device, 0)
                self._changed.notify_all()

    def drop(self, name: str) -> None:
        """Free a part; nothing happens if it is not in memory."""
        with self._changed:
            held = self._loaded.pop(name, None)
            if held is None:
                return
            if held.stream is not None:
                held.stream.close()
            held.module.to("meta")
        release_cached(self.plan.component(name).device)

    def close(self) -> None:
        """Free every part."""
        for name in self.names:
            self.drop(name)

    def _load(self, name: str, report: Report) -> nn.Module:
        device, wanted_bytes = self.plan.component(name).device, self.plan.held_bytes(name)
        while name not in self._loaded:
            if not self._make_room(device, wanted_bytes) and self._others_use(device):
                self._changed.wait()
                continue
            with torch.inference_mode(False), torch.no_grad():  # the weights may serve outside of it too
                self._loaded[name] = _Held.of(*self._loaders[name](report))
        self._loaded.move_to_end(name)
        return self._loaded[name].module

    def _others_use(self, device: str) -> bool:
        """Say whether another thread uses a part on a device."""
        return any(self.plan.component(name).device == device for name, thread in self._in_use if thread != get_ident())

    def _make_room(self, device: str, wanted_bytes: int) -> bool:
        """Drop parts that are not in use until what stays, with `wanted_bytes`, is no more than the plan keeps.

        Say whether that was possible.
        """
        in_use = {name for name, _ in self._in_use}
        for name in self.names:
            if self.size_bytes(device) + wanted_bytes <= self.plan.keep_bytes(device):
                return True
            if name not in in_use and self.plan.component(name).device == device:
                self.drop(name)
        return self.size_bytes(device) + wanted_bytes <= self.plan.keep_bytes(device)
