"""The changes that the methods of LoRA files make to a linear layer, computed without changing its weights.

Each change has two forms of one formula. `added` returns the addition to the layer's results, for weights of any kind,
including quantised ones; `difference` returns the addition to dense weights, for norms of whole rows and convolutions.

Sources: LoRA arXiv 2106.09685; DoRA arXiv 2402.09353; LoHa arXiv 2108.06098; LoKr, GLoRA and full differences arXiv
2309.14859 (LyCORIS); OFT arXiv 2306.07280 and BOFT arXiv 2311.06243; IA3 arXiv 2205.05638.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self

import torch
from attrs import evolve, fields, frozen
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "Change",
    "Decomposed",
    "Dense",
    "Gain",
    "Hadamard",
    "InputLowRank",
    "Kronecker",
    "LowRank",
    "Product",
    "Replacement",
    "Rotation",
    "Stage",
]

# Largest matrix, in numbers, to compute in one piece: LoHa's, whose product with the inputs has no cheaper form.
_PIECE_NUMBERS = 2**23


class Product(Protocol):
    """The result of a layer without its bias, for the rows that a change applies to."""

    @property
    def result(self) -> Tensor:
        """The product [n, rows] with the inputs."""

    @property
    def bias(self) -> Tensor | None:
        """The bias [rows] of the layer."""

    def of(self, x: Tensor) -> Tensor:
        """Return the product [n, rows] with other inputs x [n, in]."""


@frozen(eq=False)
class Change:
    """The change of a layer's weights [rows, in] by a LoRA."""

    @property
    def reads_result(self) -> bool:
        """Whether `added` reads the layer's own result."""
        return False

    def added(self, x: Tensor, product: Product) -> Tensor:
        """Return the addition to the results [n, rows] for inputs x [n, in]."""
        raise NotImplementedError

    def difference(self, weight: Tensor) -> Tensor:
        """Return the addition to dense weights [rows, in]."""
        raise NotImplementedError

    def tensors(self) -> Iterator[Tensor]:
        """Yield its tensors."""
        for attribute in fields(type(self)):
            yield from _tensors(getattr(self, attribute.name))

    def moved(self, move: Callable[[Tensor], Tensor]) -> Self:
        """Return a copy with `move` applied to every tensor."""
        names = (attribute.name for attribute in fields(type(self)))
        return evolve(self, **{name: _moved(getattr(self, name), move) for name in names})


@frozen(kw_only=True, eq=False)
class LowRank(Change):
    """LoRA: W + up · down, with `down` [rank, in] and `up` [rows, rank], which includes alpha / rank."""

    down: Tensor
    up: Tensor

    def added(self, x: Tensor, product: Product) -> Tensor:
        """Return the addition to the results [n, rows] for inputs x [n, in]."""
        return F.linear(F.linear(x, self.down), self.up)

    def difference(self, weight: Tensor) -> Tensor:
        """Return the addition to dense weights [rows, in]."""
        return self.up @ self.down


@frozen(kw_only=True, eq=False)
class Dense(Change):
    """W + values, a full matrix [rows, in]."""

    values: Tensor

    def added(self, x: Tensor, product: Product) -> Tensor:
        """Return the addition to the results [n, rows] for inputs x [n, in]."""
        return F.linear(x, self.values)

    def difference(self, weight: Tensor) -> Tensor:
        """Return the addition to dense weights [rows, in]."""
        return self.values


@frozen(kw_only=True, eq=False)
class Replacement(Change):
    """Weights [rows, in] that replace the layer's."""

    values: Tensor

    @property
    def reads_result(self) -> bool:
        """Whether `added` reads the layer's own result: yes, to subtract it."""
        return True

    def added(self, x: Tensor, product: Product) -> Tensor:
        """Return the addition to the results [n, rows] for inputs x [n, in]."""
        return F.linear(x, self.values) - product.result

    def difference(self, weight: Tensor) -> Tensor:
        """Return the addition to dense weights [rows, in]."""
        return self.values - weight


@frozen(kw_only=True, eq=False)
class Hadamard(Change):
    """LoHa: W + (left_up · left_down) ∘ (right_up · right_down), each pair like LoRA's."""

    left_up: Tensor
    left_down: Tensor
    right_up: Tensor
    right_down: Tensor

    def added(self, x: Tensor, product: Product) -> Tensor:
        """Return the addition to the results [n, rows] for inputs x [n, in]."""
        rows = max(1, _PIECE_NUMBERS // x.shape[-1])
        pieces = [F.linear(x, self._rows(first, rows)) for first in range(0, len(self.left_up), rows)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)

    def difference(self, weight: Tensor) -> Tensor:
        """Return the addition to dense weights [rows, in]."""
        return self._rows(0, len(self.left_up))

    def _rows(self, first: int, count: int) -> Tensor:
        some = slice(first, first + count)
        return (self.left_up[some] @ self.left_down).mul_(self.right_up[some] @ self.right_down)


@frozen(kw_only=True, eq=False)
class Kronecker(Change):
    """LoKr: W + left ⊗ right. Each factor is one matrix or the product of two."""

    left: tuple[Tensor, ...]
    right: tuple[Tensor, ...]

    def added(self, x: Tensor, product: Product) -> Tensor:
        """Return the addition to the results [n, rows] for inputs x [n, in]."""
        blocks = x.view(*x.shape[:-1], self.left[-1].shape[1], self.right[-1].shape[1])
        mixed = _through(blocks, self.right).transpose(-1, -2)
        return _through(mixed, self.left).transpose(-1, -2).flatten(-2)

    def difference(self, weight: Tensor) -> Tensor:
        """Return the addition to dense weights [rows, in]."""
        return torch.kron(_whole(self.left), _whole(self.right).contiguous())


@frozen(kw_only=True, eq=False)
class InputLowRank(Change):
    """GLoRA: W + W · back · forth + up · down."""

    back: Tensor
    forth: Tensor
    down: Tensor
    up: Tensor

    def added(self, x: Tensor, product: Product) -> Tensor:
        """Return the addition to the results [n, rows] for inputs x [n, in]."""
        inputs = F.linear(F.linear(x, self.forth), self.back)
        return product.of(inputs) + F.linear(F.linear(x, self.down), self.up)

    def difference(self, weight: Tensor) -> Tensor:
        """Return the addition to dense weights [rows, in]."""
        return weight @ self.back @ self.forth + self.up @ self.down


@frozen(kw_only=True, eq=False)
class Gain(Change):
    """IA3: each row of W (with `on_inputs`, each column) times 1 + its `excess`; `with_bias`: the bias as well."""

    excess: Tensor
    on_inputs: bool = False
    with_bias: bool = False

    @property
    def reads_result(self) -> bool:
        """Whether `added` reads the layer's own result."""
        return not self.on_inputs

    def added(self, x: Tensor, product: Product) -> Tensor:
        """Return the addition to the results [n, rows] for inputs x [n, in]."""
        if self.on_inputs:
            return product.of(x * self.excess)
        result = product.result
        return (result + product.bias if self.with_bias and product.bias is not None else result) * self.excess

    def difference(self, weight: Tensor) -> Tensor:
        """Return the addition to dense weights [rows, in]."""
        return weight * (self.excess if self.on_inputs else self.excess[:, None])


@frozen(kw_only=True, eq=False)
class Decomposed(Change):
    """DoRA: each row (with `on_inputs`, each column) of W + the addition of `inner`, times 1 + its `excess`.

    The addition of `inner` must not depend on W.
    """

    inner: Change
    excess: Tensor
    on_inputs: bool = False

    @property
    def reads_result(self) -> bool:
        """Whether `added` reads the layer's own result."""
        return not self.on_inputs

    def added(self, x: Tensor, product: Product) -> Tensor:
        """Return the addition to the results [n, rows] for inputs x [n, in]."""
        if self.on_inputs:
            scaled = x * self.excess
            return product.of(scaled) + self.inner.added(x + scaled, product)
        inner = self.inner.added(x, product)
        return torch.addcmul(inner, product.result + inner, self.excess)

    def difference(self, weight: Tensor) -> Tensor:
        """Return the addition to dense weights [rows, in]."""
        inner = self.inner.difference(weight)
        return inner + (weight + inner) * (self.excess if self.on_inputs else self.excess[:, None])


@frozen(kw_only=True, eq=False)
class Stage:
    """A stage of a rotation: numbers permuted by `order`, and multiplied in groups by 1 + `blocks` [count, size, size].

    The result has the original order; without `order`, neighbours form the groups. The blocks do not include the 1,
    because the rest is small, and a narrow dtype would lose it in rounding.
    """

    blocks: Tensor
    order: Tensor | None = None

    def of(self, numbers: Tensor) -> Tensor:
        """Return numbers [n, count * size] rotated."""
        count, size, _ = self.blocks.shape
        grouped = (numbers if self.order is None else numbers[:, self.order]).reshape(-1, count, size)
        moved = torch.einsum("kij,nkj->nki", self.blocks, grouped).reshape(numbers.shape)
        return numbers + moved if self.order is None else numbers.index_add(1, self.order, moved)


@frozen(kw_only=True, eq=False)
class Rotation(Change):
    """OFT and BOFT: R · W for a rotation R of several stages; with `on_inputs`, W · R.

    `rescale` [rows] multiplies the rows of the result.
    """

    stages: tuple[Stage, ...]
    rescale: Tensor | None = None
    on_inputs: bool = False

    @property
    def reads_result(self) -> bool:
        """Whether `added` reads the layer's own result."""
        return not self.on_inputs or self.rescale is not None

    def added(self, x: Tensor, product: Product) -> Tensor:
        """Return the addition to the results [n, rows] for inputs x [n, in]."""
        if self.on_inputs:
            moved = product.of(self._rotated(x) - x)
            return moved if self.rescale is None else (product.result + moved) * self.rescale - product.result
        rotated = self._rotated(product.result)
        return (rotated if self.rescale is None else rotated * self.rescale) - product.result

    def difference(self, weight: Tensor) -> Tensor:
        """Return the addition to dense weights [rows, in]."""
        if self.on_inputs:
            # A rotation of the inputs is its transpose when applied to the weights.
            eye = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
            rotated = weight @ self._rotated(eye).T
        else:
            rotated = self._rotated(weight.T).T
        return (rotated if self.rescale is None else rotated * self.rescale[:, None]) - weight

    def _rotated(self, numbers: Tensor) -> Tensor:
        for stage in self.stages:
            numbers = stage.of(numbers)
        return numbers


def _tensors(value: object) -> Iterator[Tensor]:
    """Yield the floating-point tensors of an attribute: a tensor, or those of changes, stages and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, Change):
        yield from value.tensors()
    elif isinstance(value, Stage):
        yield value.blocks


def _moved(value: Any, move: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return move(value)
    if isinstance(value, tuple):
        return tuple(_moved(each, move) for each in value)
    if isinstance(value, Change):
        return value.moved(move)
    if isinstance(value, Stage):
        blocks = move(value.blocks)
        return Stage(blocks=blocks, order=None if value.order is None else value.order.to(blocks.device))
    return value


def _through(x: Tensor, factors: tuple[Tensor, ...]) -> Tensor:
    """Return x multiplied by matrices, the last one first."""
    for matrix in reversed(factors):
        x = F.linear(x, matrix)
    return x


def _whole(factors: tuple[Tensor, ...]) -> Tensor:
    return factors[0] if len(factors) == 1 else factors[0] @ factors[1]
