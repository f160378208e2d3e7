"""Run networks larger than the device memory: the weights of each block are copied there just before its use.

The method is that of "ZeRO-Infinity" (Rajbhandari et al. 2021, arXiv 2104.07857) and of the offloading in accelerate
and diffusers. There are two slots of device memory. On CUDA the next block is copied from pinned memory, on a separate
stream, while the current one computes.

`tests/cuda_sim` runs this code with simulated streams and checks that conflicting accesses to a slot or to pinned
memory are ordered.
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

# Tensors start at multiples of this in a slot, in bytes: the best alignment for matrix products on GPUs and CPUs.
_ALIGN = 256

# Pinned memory is not available to other programs, nor to the page cache of the weight files.
_PINNED_SHARE = 0.5


class BlockStream:
    """Streams `units` of a module to a device. The rest of the module is moved there once.

    Units are submodules that are called (`unit(x)`). Their weights are on the CPU, mapped from a file or not.
    Floating-point parameters are converted to `dtype`; buffers keep their dtype, because networks compute some of them,
    such as the frequencies of rotary embeddings, in fp32 on purpose. A unit inside another one is streamed separately.
    `units` are in the order of their first use; later, each unit is expected to be followed by the same unit as the
    last time. The results are the same as with the whole module on the device. Only one thread may use it at a time.
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

        Units are pinned up to `pin_within_bytes` (None: half of the available memory) or until pinning fails. Others
        are copied from their current memory.
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
        # Without copies in advance, one slot is enough.
        self._slots = [_Slot(slot_bytes, self._device, cuda) for _ in range(2 if cuda else 1)]
        if self._copies is not None:
            # Running kernels may still use the memory of the slots.
            self._copies.wait_stream(torch.cuda.current_stream(self._device))
        self._next = dict(
            pairwise([*self._units, *self._units[:1]])
        )  # the first unit follows the last one, in the next pass
        self._last: _Unit | None = None
        if self._copies is not None and self._units:
            with torch.inference_mode(False), torch.no_grad():
                self._start_copy(self._units[0], self._slots[0])
        self._hooks = [unit.module.register_forward_pre_hook(self._before(unit)) for unit in self._units]

    @property
    def size_bytes(self) -> int:
        """Memory on the device: the slots and the tensors that are not streamed."""
        staying = sum(tensor.numel() * tensor.element_size() for tensor in self._staying)
        return staying + sum(len(slot.memory) for slot in self._slots)

    def close(self) -> None:
        """Stop streaming and free the slots. The module cannot be used any more."""
        for hook in self._hooks:
            hook.remove()
        if self._copies is not None:
            # The copy of the expected next block may still run. A failed device raises here.
            with suppress(RuntimeError):
                self._copies.synchronize()
        for slot in self._slots:
            slot.evict()
        for unit in self._units:
            unit.unpin()
        self._slots, self._staying, self._last = [], [], None

    @property
    def pinned_bytes(self) -> int:
        """Pinned memory of the machine, in bytes."""
        return sum(unit.pinned_bytes for unit in self._units)

    def _pin(self, within_bytes: int) -> None:
        for unit in self._units:
            within_bytes -= unit.size_bytes
            if within_bytes < 0 or not unit.pin(self._device):
                return

    def _before(self, unit: _Unit) -> Any:
        def load(module: nn.Module, arguments: Any) -> None:
            with torch.inference_mode(False), torch.no_grad():
                self._load(unit)

        return load

    def _load(self, unit: _Unit) -> None:
        last, self._last = self._last, unit
        if last is not None:
            self._next[last] = unit
            last_slot = self._slot_of(last)
            if last_slot is not None:
                last_slot.done()  # all work that uses it was queued before
        slot = self._slot_of(unit) or self._start_copy(unit, self._slots[0] if last is None else self._other(last))
        slot.wait_for_copy()
        following = self._next.get(unit)
        if self._copies is not None and following is not None and self._slot_of(following) is None:
            self._start_copy(following, self._other(unit))

    def _slot_of(self, unit: _Unit) -> _Slot | None:
        return next((slot for slot in self._slots if slot.unit is unit), None)

    def _other(self, unit: _Unit) -> _Slot:
        return next((slot for slot in self._slots if slot.unit is not unit), self._slots[0])

    def _start_copy(self, unit: _Unit, slot: _Slot) -> _Slot:
        slot.start_copy(unit, self._copies)
        return slot


class _Slot:
    """Memory on the device for one unit."""

    def __init__(self, size_bytes: int, device: torch.device, cuda: bool) -> None:
        self.memory = torch.empty(size_bytes, dtype=torch.uint8, device=device)
        self.unit: _Unit | None = None
        self._copied: Any = torch.cuda.Event() if cuda else None
        self._free: Any = torch.cuda.Event() if cuda else None

    def start_copy(self, unit: _Unit, copies: Any) -> None:
        """Start copying a unit into this slot, on the stream `copies` if there is one."""
        self.evict()
        self.unit = unit
        if copies is None:
            unit.copy_to(self.memory)
            return
        copies.wait_event(self._free)
        with torch.cuda.stream(copies):
            unit.copy_to(self.memory)
            self._copied.record(copies)

    def wait_for_copy(self) -> None:
        """Make later work on the device wait for the copy."""
        if self._copied is not None:
            torch.cuda.current_stream(self.memory.device).wait_event(self._copied)

    def done(self) -> None:
        """Make the next copy into this slot wait for the work so far."""
        if self._free is not None:
            self._free.record(torch.cuda.current_stream(self.memory.device))

    def evict(self) -> None:
        """Make the unit use its weights on the CPU again."""
        if self.unit is not None:
            self.unit.restore()
            self.unit = None


class _Unit:
    """A submodule that is streamed: its tensors, and their memory on the CPU."""

    def __init__(self, module: nn.Module, units: set[nn.Module], dtype: torch.dtype) -> None:
        self.module = module
        self.tensors = [(tensor, tensor.data) for tensor in tensors_of(module, without=units - {module})]
        self._dtype = dtype
        self._pinned: list[Tensor] = []
        self._layout = list(_slot_layout([tensor for tensor, _ in self.tensors], dtype))
        self.size_bytes = self._layout[-1][1] if self._layout else 0

    def copy_to(self, memory: Tensor) -> None:
        """Copy the tensors into device memory, and make the module use the copies."""
        for (tensor, home), (first, last, target_dtype) in zip(self.tensors, self._layout, strict=True):
            there = memory[first:last].view(target_dtype)[: home.numel()].view(home.shape)
            there.copy_(home, non_blocking=True)
            tensor.data = there

    def restore(self) -> None:
        """Make the module use its weights on the CPU again."""
        for tensor, home in self.tensors:
            tensor.data = home

    @property
    def pinned_bytes(self) -> int:
        """Pinned memory of the tensors, in bytes."""
        return sum(len(memory) for memory in self._pinned)

    def pin(self, device: torch.device) -> bool:
        """Copy the tensors into pinned memory, in the dtype of their use. Return whether it succeeded."""
        # torch allocates pinned memory in powers of two; registering existing memory wastes nothing.
        try:
            memory = torch.empty(self.size_bytes, dtype=torch.uint8)
        except RuntimeError:  # not enough memory
            return False
        self.copy_to(memory)
        runtime: Any = torch.cuda.cudart()
        if int(runtime.cudaHostRegister(memory.data_ptr(), len(memory), 0)) != 0:
            self.restore()
            _clear_last_error(device)
            return False
        self._pinned = [memory]
        self.tensors = [(tensor, tensor.data) for tensor, _ in self.tensors]
        return True

    def unpin(self) -> None:
        """Release pinned memory."""
        for memory in self._pinned:
            runtime: Any = torch.cuda.cudart()
            with suppress(RuntimeError):
                runtime.cudaHostUnregister(memory.data_ptr())
        self._pinned = []


def tensors_of(module: nn.Module, without: set[nn.Module] | frozenset[nn.Module] = frozenset()) -> Iterator[Tensor]:
    """Yield every parameter and buffer of a module once, except those of the submodules in `without`."""
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
    """Clear CUDA's last error, which the next kernel would otherwise report."""
    with suppress(RuntimeError):
        torch.ones(1, device=device).add_(1)


def _dtype_on_device(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if isinstance(tensor, nn.Parameter) and tensor.is_floating_point() else tensor.dtype


def _slot_layout(tensors: Sequence[Tensor], dtype: torch.dtype) -> Iterator[tuple[int, int, torch.dtype]]:
    """Yield the start and end in bytes and the dtype of each tensor in a slot."""
    first = 0
    for tensor in tensors:
        target_dtype = _dtype_on_device(tensor, dtype)
        end = first + -(-tensor.numel() * target_dtype.itemsize // _ALIGN) * _ALIGN
        yield first, end, target_dtype
        first = end
