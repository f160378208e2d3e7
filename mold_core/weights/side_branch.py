"""Low-rank adapters beside the layers of a network, which stays as it is: W x becomes W x + s · B (A x).

LoRA (Hu et al. 2021, arXiv 2106.09685) without merging: the weights of a layer may be of any kind, quantised ones too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from attrs import frozen
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AdaptedLinear", "Branch", "Up", "adapted"]


@frozen(kw_only=True, eq=False)
class Up:
    """The way back from some of a branch's ranks: `weight` [rows, ranks], added to a layer's rows from `first` on."""

    weight: Tensor
    first: int
    ranks: slice


@frozen(kw_only=True, eq=False)
class Branch:
    """What one adapter adds to a layer: `down` [ranks, in], all its pairs on top of each other, and their ways back.

    `source` is the name of its file.
    """

    down: Tensor
    ups: tuple[Up, ...]
    source: str = ""

    @property
    def size_bytes(self) -> int:
        """Memory of the numbers."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.down, *(up.weight for up in self.ups)))


class AdaptedLinear(nn.Module):
    """A linear layer with branches. They are not among the module's parameters: the network's memory is its own."""

    def __init__(self, base: nn.Module, branches: Sequence[tuple[Branch, float]]) -> None:
        super().__init__()
        self.base = base
        self.branches = tuple(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's own result with what the branches add."""
        out: Tensor = self.base(x)
        rows = out.view(-1, out.shape[-1])
        for branch, scale in self.branches:
            ranks = F.linear(x, branch.down).view(len(rows), -1)
            for up in branch.ups:
                part = rows[:, up.first : up.first + len(up.weight)]
                part.addmm_(ranks[:, up.ranks], up.weight.T, alpha=scale)
        return out


@contextmanager
def adapted(network: nn.Module, stack: Sequence[tuple[Mapping[str, Branch], float]]) -> Iterator[None]:
    """Compute with adapters for a while: each is branches by layer name, and a scale. Afterwards no trace is left."""
    branches: dict[str, list[tuple[Branch, float]]] = {}
    for adapter, scale in stack:
        for layer, branch in adapter.items():
            branches.setdefault(layer, []).append((branch, scale))
    layers = {name: network.get_submodule(name) for name in branches}
    try:
        for path, plain in layers.items():
            network.set_submodule(path, AdaptedLinear(plain, branches[path]))
        yield
    finally:
        for path, plain in layers.items():
            network.set_submodule(path, plain)
