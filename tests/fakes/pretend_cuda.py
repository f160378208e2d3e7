"""A pretend GPU: CUDA's streams, events and pinned memory over CPU tensors, with a check of what is ordered after what.

Inside `pretend_cuda()`, code that asks for the device ``cuda:N`` gets CPU tensors. Work on a device happens at once, so
results are right in any case; what a real GPU could do in another order is found by vector clocks (Fidge 1988): two
accesses to the same memory, one of them a write, of which neither happens before the other, are a race. So is freeing
memory whose last use the stream that it was allocated on, or the host, has not waited for.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attrs import Factory, define
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["PretendGpu", "pretend_cuda"]


@define(eq=False)
class _Memory:
    """What is known of one piece of memory: the stream that it is of (None: the host's), and who used it."""

    stream: Stream | None
    accesses: list[tuple[Stream, int, bool]] = Factory(list)


class PretendGpu:
    """What has happened on the pretend GPU. `races` are sentences; `pin_bytes` is what can be pinned (None: all)."""

    def __init__(self, pin_bytes: int | None = None) -> None:
        self.races: list[str] = []
        self.pins = 0
        self.last_error: str | None = None
        self.host: Counter[Stream] = Counter()
        self.default = Stream(self, "compute")
        self.current = self.default
        self.registered: dict[int, _Memory] = {}
        self._pin_bytes = pin_bytes
        self._memory: dict[int, _Memory] = {}

    @property
    def pinned(self) -> int:
        """How many pieces of host memory are pinned now."""
        return len(self.registered)

    # --- memory --------------------------------------------------------------------------------------------------

    def allocated(self, tensor: Tensor) -> None:
        """Know memory on the device. The allocator may have taken it from what the current stream still uses."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._memory:
            memory = self._memory[storage._cdata] = _Memory(self.current)
            memory.accesses.append((self.current, self.current.clock[self.current], True))
            weakref.finalize(storage, self._freed, storage._cdata)

    def on_device(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._memory

    def access(self, tensor: Tensor, name: str, *, write: bool) -> None:
        """Note that the current stream uses memory, and complain if that is not ordered after conflicting uses."""
        storage = tensor.untyped_storage()
        memory = self._memory.get(storage._cdata) or self.registered.get(storage.data_ptr())
        if memory is None:
            return  # pageable memory: the host waits for the copy
        mine = self.current
        for stream, moment, wrote in memory.accesses:
            if (write or wrote) and stream is not mine and mine.clock[stream] < moment:
                self.races.append(f"{name} on {mine.name} may run before {stream.name} has done with its memory")
        memory.accesses.append((mine, mine.clock[mine], write))

    def host_memory(self, tensor: Tensor) -> Tensor:
        """Pin new memory of the host. Raises RuntimeError when that much cannot be pinned."""
        storage = tensor.untyped_storage()
        if self.cudaHostRegister(storage.data_ptr(), storage.nbytes(), 0):
            self.last_error = None
            raise RuntimeError("CUDA error: out of memory")
        weakref.finalize(storage, self.cudaHostUnregister, storage.data_ptr())
        return tensor

    def host_writes(self, tensor: Tensor) -> None:
        """Complain if the host writes to pinned memory that a stream may still read."""
        memory = self.registered.get(tensor.untyped_storage().data_ptr())
        for stream, moment, _ in memory.accesses if memory else ():
            if self.host[stream] < moment:
                self.races.append(f"the host may write to pinned memory before {stream.name} has read it")

    def _freed(self, key: int) -> None:
        memory = self._memory.pop(key)
        assert memory.stream is not None
        known = memory.stream.clock | self.host
        for stream, moment, _ in memory.accesses:
            if stream is not memory.stream and known[stream] < moment:
                self.races.append(f"device memory is freed while {stream.name} may use it")

    # --- what torch.cuda.cudart() has ----------------------------------------------------------------------------

    def cudaHostRegister(self, pointer: int, size: int, flags: int) -> int:
        self.pins += 1
        if self._pin_bytes is not None and size > self._pin_bytes:
            self.last_error = "CUDA error: out of memory"
            return 2
        if self._pin_bytes is not None:
            self._pin_bytes -= size
        self.registered[pointer] = _Memory(None)
        return 0

    def cudaHostUnregister(self, pointer: int) -> int:
        for stream, moment, _ in self.registered.pop(pointer).accesses:
            if self.host[stream] < moment:
                self.races.append(f"pinned memory is given back while {stream.name} may read it")
        return 0


class Stream:
    """A stream; `clock` says up to which moment of each stream the work queued from now on is ordered after."""

    def __init__(self, gpu: PretendGpu, name: str) -> None:
        self.name = name
        self.clock: Counter[Stream] = Counter()
        self._gpu = gpu

    def tick(self) -> None:
        """Begin another piece of work: it is queued after all that the host has waited for."""
        self.clock |= self._gpu.host
        self.clock[self] += 1

    def wait_event(self, event: Event) -> None:
        self.clock |= event.clock

    def wait_stream(self, stream: Stream) -> None:
        self.clock |= stream.clock

    def synchronize(self) -> None:
        self._gpu.host |= self.clock


class Event:
    """An event; one that was never recorded makes nobody wait."""

    def __init__(self, gpu: PretendGpu) -> None:
        self.clock: Counter[Stream] = Counter()
        self._gpu = gpu

    def synchronize(self) -> None:
        self._gpu.host |= self.clock

    def record(self, stream: Stream) -> None:
        self.clock = Counter(stream.clock)


class _Device(TorchFunctionMode):
    """Lets what is asked for on a GPU be on the CPU, and knows it as the GPU's."""

    def __init__(self, gpu: PretendGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if named.pop("pin_memory", False):
            return self._gpu.host_memory(function(*args, **named))
        moved = [_is_gpu(value) for value in (*args, *named.values())]
        if function is torch.device or not any(moved):
            return function(*args, **named)
        here = [torch.device("cpu") if _is_gpu(value) else value for value in args]
        named = {name: torch.device("cpu") if _is_gpu(value) else value for name, value in named.items()}
        made = function(*here, **named)
        if isinstance(made, Tensor):
            if isinstance(args[0] if args else None, Tensor) and made is args[0] and not self._gpu.on_device(made):
                made = made.clone()
            self._gpu.allocated(made)
        return made


class _Work(TorchDispatchMode):
    """Notes which memory each operation on the device reads and writes."""

    def __init__(self, gpu: PretendGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu = self._gpu
        named = kwargs or {}
        made = function(*args, **named)
        inputs = [tensor for tensor in tree_leaves((args, named)) if isinstance(tensor, Tensor)]
        if function.is_view:
            return made
        if not any(map(gpu.on_device, inputs)):
            for argument, value in zip(function._schema.arguments, args, strict=False):
                if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor):
                    gpu.host_writes(value)
            return made
        if gpu.last_error is not None:
            message, gpu.last_error = gpu.last_error, None
            raise RuntimeError(message)
        gpu.current.tick()
        for argument, value in zip(function._schema.arguments, args, strict=False):
            write = argument.alias_info is not None and argument.alias_info.is_write
            for tensor in tree_leaves(value):
                if isinstance(tensor, Tensor):
                    gpu.access(tensor, str(function), write=write)
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                gpu.allocated(tensor)
        return made


def _is_gpu(value: Any) -> bool:
    return (isinstance(value, torch.device) and value.type == "cuda") or (
        isinstance(value, str) and value.startswith("cuda")
    )


@contextmanager
def pretend_cuda(pin_bytes: int | None = None) -> Iterator[PretendGpu]:
    """Give a GPU for a while, on which `pin_bytes` can be pinned."""
    gpu = PretendGpu(pin_bytes)
    made = iter(range(1, 100))

    @contextmanager
    def use(stream: Stream) -> Iterator[None]:
        before, gpu.current = gpu.current, stream
        try:
            yield
        finally:
            gpu.current = before

    replaced = {
        "Stream": lambda device=None: Stream(gpu, f"stream {next(made)}"),
        "Event": lambda blocking=False: Event(gpu),
        "stream": use,
        "current_stream": lambda device=None: gpu.current,
        "cudart": lambda: SimpleNamespace(
            cudaHostRegister=gpu.cudaHostRegister, cudaHostUnregister=gpu.cudaHostUnregister
        ),
        "empty_cache": lambda: None,
    }
    with pytest.MonkeyPatch.context() as patch, _Device(gpu), _Work(gpu):
        for name, value in replaced.items():
            patch.setattr(torch.cuda, name, value)
        yield gpu
