"""Full-size networks on a GPU that is not there: fake tensors, which have shapes, dtypes and devices but no numbers.

`fake_gpu()` gives a `Counted`, which sees every operation: how many kernels it would launch, which of them make the
processor wait for the device, and how much memory live tensors take at most. What is counted is eager code; a kernel is
an operation that computes, so some operations that torch divides into several kernels count as one.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mold_core.weights import PackedTensor, load_weights, type_named

__all__ = ["Counted", "fake_gpu", "filled", "weights_of"]

aten = torch.ops.aten

# Operations that only make another view of memory, or take memory without writing to it.
_FREE = {"empty", "empty_like", "empty_strided", "new_empty", "detach", "alias", "lift_fresh", "_unsafe_view", "view"}
_FREE |= {"_reshape_alias"}
_WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal")


class Counted(TorchDispatchMode):
    """What was done on fake GPUs since `begin`: `devices` are where results were, `waits` what the host waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.waits: list[str] = []
        self.devices: set[str] = set()
        self.live = self.peak = self.base = 0
        self._known: set[int] = set()

    def begin(self) -> None:
        """Count from now on."""
        self.kernels.clear()
        self.waits.clear()
        self.devices.clear()
        self.peak = self.base = self.live

    @property
    def launches(self) -> int:
        """How many kernels were launched."""
        return sum(self.kernels.values())

    @property
    def working_bytes(self) -> int:
        """The most that live tensors took, beyond those that were there at the beginning."""
        return self.peak - self.base

    def hold(self, module: nn.Module) -> None:
        """Count the tensors of a module as live."""
        for tensor in (*module.parameters(), *module.buffers()):
            self._track(tensor)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        made = function(*args, **named)
        if function.namespace == "prim":  # a question about a tensor
            return made
        results = [tensor for tensor in tree_leaves(made) if isinstance(tensor, Tensor)]
        name = function.overloadpacket.__name__
        inputs = [tensor for tensor in tree_leaves((args, named)) if isinstance(tensor, Tensor)]
        on_gpu = any(tensor.is_cuda for tensor in (*inputs, *results))
        if on_gpu and name in _WAITS:
            self.waits.append(name)
        if on_gpu and _crosses(inputs, results):
            self.waits.append(f"{name} to {results[0].device.type}")
        if on_gpu and name not in _FREE and not function.is_view:
            self.kernels[name] += 1
        for tensor in results:
            if tensor.is_cuda:
                self.devices.add(str(tensor.device))
                self._track(tensor)
        return made

    def _track(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if tensor.is_cuda and storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())

    def _freed(self, key: int, size_bytes: int) -> None:
        self._known.discard(key)
        self.live -= size_bytes


def _crosses(inputs: list[Tensor], results: list[Tensor]) -> bool:
    """Say whether numbers go from the machine to the device or back."""
    return bool(inputs and results) and any(
        tensor.is_cuda != result.is_cuda and tensor.ndim + result.ndim > 0 and tensor.numel() > 1
        for tensor in inputs
        for result in results
    )


class _WithoutDriver(TorchFunctionMode):
    """Does in operations what torch does in C++ with a device guard, which needs a driver."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if function is Tensor.__getitem__ and args[0].is_cuda:
            return _indexed(*args)
        if function is Tensor.__setitem__ and args[0].is_cuda:
            there, value = _indexed(*args[:2]), args[2]
            aten.copy_.default(there, value) if isinstance(value, Tensor) else aten.fill_.Scalar(there, value)
            return None
        if function is torch._C._nn.scaled_dot_product_attention:
            return _attention(*args, **named)
        if function is Tensor.copy_ and args[0].is_cuda:
            return aten.copy_.default(*args, **named)
        if function is Tensor.new_tensor and args[0].is_cuda:
            like = args[0]
            return torch.empty(torch.tensor(args[1]).shape, dtype=like.dtype, device=like.device)
        return function(*args, **named)


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
    """Choose the kernel that torch chooses on a GPU, which this build of torch knows nothing of."""
    scale = options.get("scale")
    if attn_mask is None:
        made = aten._scaled_dot_product_flash_attention.default(query, key, value, scale=scale)
    else:
        mask = attn_mask.expand(*query.shape[:-1], key.shape[-2])
        made = aten._scaled_dot_product_efficient_attention.default(query, key, value, mask, False, scale=scale)
    out: Tensor = made[0]
    return out


def _indexed(tensor: Tensor, index: Any) -> Tensor:
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [part if not isinstance(part, Tensor) else None for part in parts]:
        place = next(number for number, part in enumerate(parts) if part is Ellipsis)
        taken = sum(part is not None for part in parts) - 1
        parts[place : place + 1] = [slice(None)] * (tensor.ndim - taken)
    axis, chosen = 0, {}
    for part in parts:
        if part is None:
            tensor, axis = aten.unsqueeze.default(tensor, axis), axis + 1
        elif isinstance(part, int):
            tensor = aten.select.int(tensor, axis, part)
        elif isinstance(part, slice):
            if part != slice(None):
                tensor = aten.slice.Tensor(tensor, axis, part.start, part.stop, part.step or 1)
            axis += 1
        else:
            chosen[axis], axis = part, axis + 1
    if chosen:
        tensor = aten.index.Tensor(tensor, [chosen.get(number) for number in range(max(chosen) + 1)])
    return tensor


@contextmanager
def fake_gpu() -> Iterator[Counted]:
    """Let tensors be made on ``cuda:N`` for a while, without numbers."""
    torch._C._ensureCUDADeviceGuardSet()
    with FakeTensorMode(allow_non_fake_inputs=True), _WithoutDriver(), Counted() as counted, torch.no_grad():
        yield counted


def weights_of(
    network: nn.Module, kind: str, device: str, dtype: torch.dtype = torch.bfloat16
) -> dict[str, Tensor | PackedTensor]:
    """Return weights for a network on the meta device: in `dtype`, or matrices in a quantised kind."""
    made: dict[str, Tensor | PackedTensor] = {}
    for name, tensor in network.state_dict().items():
        if kind == "bf16" or tensor.ndim != 2 or tensor.shape[1] % 256:
            made[name] = torch.empty(tensor.shape, dtype=dtype, device=device)
            continue
        type_ = type_named(kind)
        rows, columns = tensor.shape
        data = torch.empty((rows, type_.size_bytes(columns)), dtype=torch.uint8, device=device)
        scale = torch.empty((), device=device) if kind.startswith("F8") else None
        made[name] = PackedTensor(data=data, type=type_, shape=(rows, columns), scale=scale)
    return made


def filled(
    network: nn.Module,
    kind: str,
    device: str,
    dtype: torch.dtype = torch.bfloat16,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> nn.Module:
    """Give a network on the meta device fake weights; those of convolutions in a memory format."""
    weights = weights_of(network, kind, device, dtype)
    for name, weight in weights.items():
        if isinstance(weight, Tensor) and weight.ndim == 4:
            weights[name] = weight.to(memory_format=memory_format)
    load_weights(network, weights, "nowhere", dtype=dtype, device=device, compile="off")
    return network.eval().requires_grad_(False)
