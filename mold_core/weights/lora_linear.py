"""Apply LoRAs to the layers of a network without merging: W x becomes W x + s · (the addition of each LoRA).

So the weights of a layer may be of any kind, including quantised ones. Parameters of other modules than linear layers
(norms, convolutions) are small or dense, and are exchanged temporarily.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from attrs import define, frozen
from torch import Tensor, nn
from torch.nn import functional as F

from mold_core.weights.lora_changes import Change, LowRank

__all__ = [
    "AdaptedLinear",
    "Delta",
    "LayerDelta",
    "LinearDelta",
    "LoraDelta",
    "LoraUp",
    "ParameterDelta",
    "with_loras_applied",
]


@frozen(kw_only=True, eq=False)
class LoraUp:
    """The up projection of some of a delta's ranks: `weight` [rows, ranks], for a layer's rows from `first` on."""

    weight: Tensor
    first: int
    ranks: slice


@frozen(kw_only=True, eq=False)
class LoraDelta:
    """The addition of one LoRA to a layer: `down` [ranks, in], which stacks all its pairs, and their up projections.

    `source` is the name of its file.
    """

    down: Tensor
    ups: tuple[LoraUp, ...]
    source: str = ""
    reads_result = False

    def tensors(self) -> Iterator[Tensor]:
        """Yield its tensors."""
        yield from (self.down, *(up.weight for up in self.ups))

    def add(self, rows: Tensor, x: Tensor, product: _Product, scale: float) -> None:
        """Add `scale` times its addition to the results [n, out] for inputs x [n, in]."""
        ranks = F.linear(x[:, : self.down.shape[1]], self.down)
        for up in self.ups:
            some = rows[:, up.first : up.first + len(up.weight)]
            some.addmm_(ranks[:, up.ranks], up.weight.T, alpha=scale)


@frozen(kw_only=True, eq=False)
class LayerDelta:
    """A LoRA's change of `count` rows of a layer, from `first` on, by another method than plain pairs, or of a bias.

    `swapped`: the LoRA has the two halves of the rows in the opposite order.
    """

    first: int
    count: int
    change: Change | None = None
    bias: Tensor | None = None
    swapped: bool = False
    source: str = ""

    @property
    def reads_result(self) -> bool:
        """Whether it reads the layer's own result."""
        return self.change is not None and self.change.reads_result

    def tensors(self) -> Iterator[Tensor]:
        """Yield its tensors."""
        if self.change is not None:
            yield from self.change.tensors()
        if self.bias is not None:
            yield self.bias

    def add(self, rows: Tensor, x: Tensor, product: _Product, scale: float) -> None:
        """Add `scale` times its addition to the results [n, out] for inputs x [n, in]."""
        some = rows[:, self.first : self.first + self.count]
        if self.change is not None:
            width = self.change.down.shape[1] if isinstance(self.change, LowRank) else product.inputs
            added = self.change.added(x[:, :width], product.rows(self.first, self.count, self.swapped))
            some.add_(_halves_exchanged(added) if self.swapped else added, alpha=scale)
        if self.bias is not None:
            some.add_(_halves_exchanged(self.bias) if self.swapped else self.bias, alpha=scale)


@frozen(kw_only=True, eq=False)
class ParameterDelta:
    """A LoRA's addition, `difference`, to the parameter `name` of a module that is not a linear layer."""

    name: str
    difference: Callable[[Tensor], Tensor]
    numbers: tuple[Tensor, ...]
    source: str = ""

    def tensors(self) -> Iterator[Tensor]:
        """Yield its tensors."""
        yield from self.numbers


LinearDelta = LoraDelta | LayerDelta
Delta = LinearDelta | ParameterDelta


@define(eq=False)  # not frozen: torch.compile cannot trace the constructor of a frozen attrs class
class _Product:
    """The result [n, rows] of a layer without its bias, for all or some of its rows.

    `swapped`: with the halves of the rows exchanged.
    """

    base: nn.Module
    whole: Tensor
    rows_of: slice = slice(None)
    swapped: bool = False

    @property
    def inputs(self) -> int:
        return int(self.base.in_features)  # type: ignore[arg-type]

    @property
    def result(self) -> Tensor:
        return self._some(self.whole)

    @property
    def bias(self) -> Tensor | None:
        bias = _bias(self.base)
        return None if bias is None else self._some(bias)

    def of(self, x: Tensor) -> Tensor:
        return self._some(_without_bias(self.base(x), self.base))

    def rows(self, first: int, count: int, swapped: bool) -> _Product:
        return _Product(self.base, self.whole, slice(first, first + count), swapped)

    def _some(self, numbers: Tensor) -> Tensor:
        some = numbers[..., self.rows_of]
        return _halves_exchanged(some) if self.swapped else some


class AdaptedLinear(nn.Module):
    """A linear layer with LoRAs. Their tensors are not parameters of the module, so the network's size excludes them.

    Inputs may have more than `in` columns; only deltas of that width read the rest.
    """

    def __init__(self, base: nn.Module, deltas: Sequence[tuple[LinearDelta, float]]) -> None:
        super().__init__()
        self.base = base
        self.deltas = tuple(deltas)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's own result plus the additions of the LoRAs."""
        width = int(self.base.in_features)  # type: ignore[arg-type]
        out: Tensor = self.base(x if x.shape[-1] == width else x[..., :width])
        rows = out.view(-1, out.shape[-1])
        reads = any(delta.reads_result for delta, _ in self.deltas)
        product = _Product(self.base, _without_bias(rows, self.base, copy=True) if reads else rows)
        inputs = x.reshape(len(rows), -1)
        for delta, scale in self.deltas:
            delta.add(rows, inputs, product, scale)
        return out


@contextmanager
def with_loras_applied(
    network: nn.Module, stack: Sequence[tuple[Mapping[str, Delta | tuple[Delta, ...]], float]]
) -> Iterator[None]:
    """Apply LoRAs, each as deltas by layer name with a scale, during the block. Afterwards the network is unchanged."""
    deltas: dict[str, list[tuple[Delta, float]]] = {}
    for lora, scale in stack:
        for layer, branches in lora.items():
            each = branches if isinstance(branches, tuple) else (branches,)
            deltas.setdefault(layer, []).extend((delta, scale) for delta in each)
    modules = {name: network.get_submodule(name) for name in deltas}
    exchanged: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for path, module in modules.items():
            linear = [(delta, scale) for delta, scale in deltas[path] if not isinstance(delta, ParameterDelta)]
            if linear:
                network.set_submodule(path, AdaptedLinear(module, linear))
            for delta, scale in deltas[path]:
                if isinstance(delta, ParameterDelta):
                    exchanged.append((module, delta.name, module._parameters[delta.name]))  # type: ignore[arg-type]
                    module._parameters[delta.name] = _changed(exchanged[-1][2], delta, scale)
        yield
    finally:
        for path, module in modules.items():
            network.set_submodule(path, module)
        for module, name, parameter in reversed(exchanged):
            module._parameters[name] = parameter


def _changed(parameter: nn.Parameter, delta: ParameterDelta, scale: float) -> nn.Parameter:
    with torch.inference_mode(False), torch.no_grad():
        numbers = parameter.detach().to(delta.numbers[0].device, torch.float32)
        changed = numbers + scale * delta.difference(numbers)
        return nn.Parameter(changed.to(delta.numbers[0].dtype), requires_grad=False)


def _bias(layer: nn.Module) -> Tensor | None:
    bias = getattr(layer, "bias", None)
    return bias if isinstance(bias, Tensor) else None


def _without_bias(rows: Tensor, layer: nn.Module, *, copy: bool = False) -> Tensor:
    bias = _bias(layer)
    if bias is None:
        return rows.clone() if copy else rows
    return rows - bias.to(rows.dtype)


def _halves_exchanged(numbers: Tensor) -> Tensor:
    return torch.cat(numbers.chunk(2, dim=-1)[::-1], dim=-1)
