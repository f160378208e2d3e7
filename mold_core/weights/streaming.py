"""Networks larger than the device: the weights of each block are copied there just before it is used.

As in "ZeRO-Infinity" (Rajbhandari et al. 2021, arXiv 2104.07857) and the offloading of accelerate and diffusers. Two
slots of device memory take turns; on CUDA the next block is copied, from pinned memory and on a stream of its own,
while the one before it computes.

`tests/cuda_sim` runs this code with simulated streams and checks that every access to a slot or to pinned memory is
ordered after the accesses that it conflicts with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from mold_core.host_memory import available_bytes

__all__ = ["BlockStream", "tensors_of"]

# Tensors begin at multiples of this in a slot: what matrix products on GPUs and CPUs like best.
_ALIGN = 256

# Memory that is pinned is lost to every other program, and to the cache of the files that weights are read from.
_PINNED_SHARE = 0.5


class BlockStream:
    """Streams `units` of a module to a device. All else of the module is moved there and stays.

    Units are submodules that are called (`unit(x)`); their weights are on the CPU, mapped from a file or not, and are
    brought in `dtype` where they are floating-point parameters. Buffers keep their dtype: networks compute some of
    them, such as the frequencies of rotary embeddings, in fp32 on purpose. A unit within another one is streamed by
    itself. `units` stand in the order in which they are used at first; afterwards what followed a unit last time is
    expected to follow it. The module gives what it would give if it were on the device as a whole. For one thread at
    a time.
    """

    def __init__(
        self,
        module: nn.Module,
        units: Sequence[nn.Module],
        *,
        device: str | torch.device,
        dtype: torch.dtype,
        pin: bool = False,
        pin_within_bytes: int | None = None,
    ) -> None:
        """`pin`: copy weights into pinned memory first, for a GPU.

        Units are pinned until `pin_within_bytes` are used up (None: half of the memory that is available now) or until
        pinning fails; the others are copied from where they are.
        """
        self._device = torch.device(device)
        ours = set(units)
        self._units = [_Unit(unit, ours, dtype) for unit in units]
        streamed = {id(tensor) for unit in self._units for tensor, _ in unit.tensors}
        self._staying = [tensor for tensor in tensors_of(module) if id(tensor) not in streamed]
        for tensor in self._staying:
            tensor.data = tensor.data.to(self._device, _dtype_on_device(tensor, dtype))
        cuda = self._device.type == "cuda"
        if pin and cuda:
            self._pin(int(available_bytes() * _PINNED_SHARE) if pin_within_bytes is None else pin_within_bytes)
        self._copies: Any = torch.cuda.Stream(self._device) if cuda else None
        slot_bytes = max((unit.size_bytes for unit in self._units), default=0)
        # One slot is enough where nothing is copied ahead.
        self._slots = [_Slot(slot_bytes, self._device, cuda) for _ in range(2 if cuda else 1)]
        if self._copies is not None:
            # The allocator may have given the slots memory that kernels begun before now still use.
            self._copies.wait_stream(torch.cuda.current_stream(self._device))
        self._next = dict(pairwise([*self._units, *self._units[:1]]))  # one pass follows another
        self._last: _Unit | None = None
        if self._copies is not None and self._units:
            with torch.inference_mode(False), torch.no_grad():
                self._fill(self._units[0], self._slots[0])
        self._hooks = [unit.module.register_forward_pre_hook(self._before(unit)) for unit in self._units]

    @property
    def size_bytes(self) -> int:
        """Memory on the device: the slots, and what is not streamed."""
        staying = sum(tensor.numel() * tensor.element_size() for tensor in self._staying)
        return staying + sum(len(slot.memory) for slot in self._slots)

    def close(self) -> None:
        """Stop streaming and free the slots. The module cannot be used any more."""
        for hook in self._hooks:
            hook.remove()
        if self._copies is not None:
            # The block that was expected next may still be on its way. A device that has failed copies nothing.
            with suppress(RuntimeError):
                self._copies.synchronize()
        for slot in self._slots:
            slot.evict()
        for unit in self._units:
            unit.unpin()
        self._slots, self._staying, self._last = [], [], None

    @property
    def pinned_bytes(self) -> int:
        """Memory of the machine that the system cannot take back while this streams."""
        return sum(unit.pinned_bytes for unit in self._units)

    def _pin(self, within_bytes: int) -> None:
        for unit in self._units:
            within_bytes -= unit.size_bytes
            if within_bytes < 0 or not unit.pin(self._device):
                return

    def _before(self, unit: _Unit) -> Any:
        def bring(module: nn.Module, arguments: Any) -> None:
            with torch.inference_mode(False), torch.no_grad():
                self._bring(unit)

        return bring

    def _bring(self, unit: _Unit) -> None:
        last, self._last = self._last, unit
        if last is not None:
            self._next[last] = unit
            last_slot = self._slot_of(last)
            if last_slot is not None:
                last_slot.done()  # whatever computes with it was begun before now
        slot = self._slot_of(unit) or self._fill(unit, self._slots[0] if last is None else self._other(last))
        slot.wait_until_filled()
        following = self._next.get(unit)
        if self._copies is not None and following is not None and self._slot_of(following) is None:
            self._fill(following, self._other(unit))

    def _slot_of(self, unit: _Unit) -> _Slot | None:
        return next((slot for slot in self._slots if slot.unit is unit), None)

    def _other(self, unit: _Unit) -> _Slot:
        return next((slot for slot in self._slots if slot.unit is not unit), self._slots[0])

    def _fill(self, unit: _Unit, slot: _Slot) -> _Slot:
        slot.fill(unit, self._copies)
        return slot


class _Slot:
    """Memory on the device for one unit."""

    def __init__(self, size_bytes: int, device: torch.device, cuda: bool) -> None:
        self.memory = torch.empty(size_bytes, dtype=torch.uint8, device=device)
        self.unit: _Unit | None = None
        self._filled: Any = torch.cuda.Event() if cuda else None
        self._free: Any = torch.cuda.Event() if cuda else None

    def fill(self, unit: _Unit, copies: Any) -> None:
        """Begin to copy a unit here, on the stream `copies` if there is one."""
        self.evict()
        self.unit = unit
        if copies is None:
            unit.place(self.memory)
            return
        copies.wait_event(self._free)
        with torch.cuda.stream(copies):
            unit.place(self.memory)
            self._filled.record(copies)

    def wait_until_filled(self) -> None:
        """Let what is computed from now on wait for the copy."""
        if self._filled is not None:
            torch.cuda.current_stream(self.memory.device).wait_event(self._filled)

    def done(self) -> None:
        """Let the next copy wait for what was begun so far."""
        if self._free is not None:
            self._free.record(torch.cuda.current_stream(self.memory.device))

    def evict(self) -> None:
        """Give the unit its weights on the CPU back."""
        if self.unit is not None:
            self.unit.restore()
            self.unit = None


class _Unit:
    """A submodule that is streamed: its tensors, and where they are when they are not on the device."""

    def __init__(self, module: nn.Module, units: set[nn.Module], dtype: torch.dtype) -> None:
        self.module = module
        self.tensors = [(tensor, tensor.data) for tensor in tensors_of(module, without=units - {module})]
        self._dtype = dtype
        self._pinned: list[Tensor] = []
        self._places = list(_places([tensor for tensor, _ in self.tensors], dtype))
        self.size_bytes = self._places[-1][1] if self._places else 0

    def place(self, memory: Tensor) -> None:
        """Copy the tensors into device memory and let the module use them there."""
        for (tensor, home), (first, last, wanted) in zip(self.tensors, self._places, strict=True):
            there = memory[first:last].view(wanted)[: home.numel()].view(home.shape)
            there.copy_(home, non_blocking=True)
            tensor.data = there

    def restore(self) -> None:
        """Let the module have its weights on the CPU again."""
        for tensor, home in self.tensors:
            tensor.data = home

    @property
    def pinned_bytes(self) -> int:
        """Pinned memory that the tensors lie in."""
        return sum(len(memory) for memory in self._pinned)

    def pin(self, device: torch.device) -> bool:
        """Copy the tensors into pinned memory, in the dtype they are used in; say whether that was possible."""
        # torch's own pinned memory is handed out in powers of two; registering what is there wastes nothing.
        try:
            memory = torch.empty(self.size_bytes, dtype=torch.uint8)
        except RuntimeError:  # there is not that much memory
            return False
        self.place(memory)
        runtime: Any = torch.cuda.cudart()
        if int(runtime.cudaHostRegister(memory.data_ptr(), len(memory), 0)) != 0:
            self.restore()
            _clear_last_error(device)
            return False
        self._pinned = [memory]
        self.tensors = [(tensor, tensor.data) for tensor, _ in self.tensors]
        return True

    def unpin(self) -> None:
        """Give pinned memory back to the system."""
        for memory in self._pinned:
            runtime: Any = torch.cuda.cudart()
            with suppress(RuntimeError):
                runtime.cudaHostUnregister(memory.data_ptr())
        self._pinned = []


def tensors_of(module: nn.Module, without: set[nn.Module] | frozenset[nn.Module] = frozenset()) -> Iterator[Tensor]:
    """Yield every parameter and buffer of a module once, leaving out those of the submodules in `without`."""
    seen: set[int] = set()
    stack = [module]
    while stack:
        one = stack.pop()
        if one in without:
            continue
        for tensor in (*one._parameters.values(), *one._buffers.values()):
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor
        stack.extend(reversed(list(one.children())))


def _clear_last_error(device: torch.device) -> None:
    """Let CUDA forget that a call failed: else the next kernel that is launched is blamed for it."""
    with suppress(RuntimeError):
        torch.ones(1, device=device).add_(1)


def _dtype_on_device(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if isinstance(tensor, nn.Parameter) and tensor.is_floating_point() else tensor.dtype


def _places(tensors: Sequence[Tensor], dtype: torch.dtype) -> Iterator[tuple[int, int, torch.dtype]]:
    """Yield where each tensor goes in a slot (first byte, end) and in what dtype."""
    first = 0
    for tensor in tensors:
        wanted = _dtype_on_device(tensor, dtype)
        end = first + -(-tensor.numel() * wanted.itemsize // _ALIGN) * _ALIGN
        yield first, end, wanted
        first = end
