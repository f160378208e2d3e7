"""Low-rank LoRAs beside the layers of a network, which stays as it is: W x becomes W x + s · B (A x).

LoRA (Hu et al. 2021, arXiv 2106.09685) without merging: the weights of a layer may be of any kind, quantised ones too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from attrs import frozen
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AdaptedLinear", "LoraDelta", "LoraUp", "with_loras_applied"]


@frozen(kw_only=True, eq=False)
class LoraUp:
    """The way back from some of a branch's ranks: `weight` [rows, ranks], added to a layer's rows from `first` on."""

    weight: Tensor
    first: int
    ranks: slice


@frozen(kw_only=True, eq=False)
class LoraDelta:
    """What one LoRA adds to a layer: `down` [ranks, in], all its pairs on top of each other, and their ways back.

    `source` is the name of its file.
    """

    down: Tensor
    ups: tuple[LoraUp, ...]
    source: str = ""

    @property
    def size_bytes(self) -> int:
        """Memory of the numbers."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.down, *(up.weight for up in self.ups)))


class AdaptedLinear(nn.Module):
    """A linear layer with branches. They are not among the module's parameters: the network's memory is its own."""

    def __init__(self, base: nn.Module, deltas: Sequence[tuple[LoraDelta, float]]) -> None:
        super().__init__()
        self.base = base
        self.deltas = tuple(deltas)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's own result with what the branches add."""
        out: Tensor = self.base(x)
        rows = out.view(-1, out.shape[-1])
        for branch, scale in self.deltas:
            ranks = F.linear(x, branch.down).view(len(rows), -1)
            for up in branch.ups:
                part = rows[:, up.first : up.first + len(up.weight)]
                part.addmm_(ranks[:, up.ranks], up.weight.T, alpha=scale)
        return out


@contextmanager
def with_loras_applied(network: nn.Module, stack: Sequence[tuple[Mapping[str, LoraDelta], float]]) -> Iterator[None]:
    """Compute with LoRAs for a while: each is branches by layer name, and a scale. Afterwards no trace is left."""
    deltas: dict[str, list[tuple[LoraDelta, float]]] = {}
    for adapter, scale in stack:
        for layer, branch in adapter.items():
            deltas.setdefault(layer, []).append((branch, scale))
    layers = {name: network.get_submodule(name) for name in deltas}
    try:
        for path, plain in layers.items():
            network.set_submodule(path, AdaptedLinear(plain, deltas[path]))
        yield
    finally:
        for path, plain in layers.items():
            network.set_submodule(path, plain)
