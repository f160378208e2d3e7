"""Linear layers of int8 rows, for networks that process a few rows at a time: language models that generate text.

With one row, memory bandwidth limits a matrix product, and dequantizing blocks takes longer than reading them. Rows of
int8 with one scale each need no dequantization: a function compiled for this machine (packed rows) multiplies them
directly, or torch does, at half the speed. Blocks with scales of their own are rounded to the scale of their row, to
within 1/254 of its largest magnitude: a second, small rounding after the file's own.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mold_core.cancelling import check_cancelled
from mold_core.weights.int8_gemm import PACK_ROWS, Multiply, pack_rows, unpack_rows
from mold_core.weights.layers import PackedEmbedding, PackedLinear
from mold_core.weights.packed import PackedTensor, Scratch

__all__ = ["Int8Embedding", "Int8Linear", "Int8Packed", "Int8Rows", "to_int8"]

# Up to this many rows of input, multiplying by int8 is faster than dequantizing the weights first. Measured on a
# processor with bf16 instructions, where one row takes a third of the time of a dense product, and ten rows the same.
_FEW = 8
_NUMBERS = 2**18


class Int8Rows(nn.Module):
    """A matrix [rows, columns] of int8 numbers with one bf16 scale per row, multiplied by torch."""

    def __init__(self, numbers: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.numbers = nn.Parameter(numbers, requires_grad=False)
        self.scales = nn.Parameter(scales, requires_grad=False)
        self.shape = (numbers.shape[0], numbers.shape[1])

    @classmethod
    def of(cls, weight: PackedTensor) -> Int8Rows:
        """Return quantised weights [rows, columns] rounded to one scale per row, computed in pieces."""
        numbers = torch.empty(weight.shape, dtype=torch.int8)
        scales = torch.empty(weight.shape[0], dtype=torch.bfloat16)
        for span, piece, row_scales in _rounded(weight, 1):
            numbers[span], scales[span] = piece, row_scales
        return cls(numbers, scales)

    def take(self, ids: Tensor) -> Tensor:
        """Return the rows, float32 [..., columns], at indices `ids`, int64 [...]."""
        return self.numbers[ids].float() * self.scales[ids].float()[..., None]

    def expand(self) -> Tensor:
        """Return all rows, float32."""
        return self.take(torch.arange(self.shape[0]))

    def multiply_few(self, x: Tensor) -> Tensor:
        """Return the product of x [up to 8, columns] and the rows: bf16 [..., rows]."""
        return torch._weight_int8pack_mm(x.bfloat16(), self.numbers, self.scales)

    def multiply_many(self, x: Tensor, scratch: Scratch) -> Tensor:
        """Return the same for any number of rows of x. The int8 numbers are converted to bf16 in pieces."""
        x, products, first = x.bfloat16(), [], 0
        while first < self.shape[0]:
            memory = scratch.rows(self.shape[0] - first, self.shape[1], x)
            span = slice(first, first + len(memory))
            memory.copy_(self.numbers[span])  # exact: bf16 represents integers up to 256
            products.append(F.linear(x, memory).mul_(self.scales[span]))
            first = span.stop
        return products[0] if len(products) == 1 else torch.cat(products, dim=-1)


class Int8Packed(nn.Module):
    """The same in the packed layout of `int8_gemm`, 64 rows each, multiplied in float32 by a compiled function."""

    def __init__(self, packed: Tensor, scales: Tensor, multiply: Multiply) -> None:
        """`packed` int8 [count, columns, 16, 4], `scales` float32 [64 count]."""
        super().__init__()
        self.packed = nn.Parameter(packed, requires_grad=False)
        self.scales = nn.Parameter(scales, requires_grad=False)
        self.multiply = multiply
        self.shape = (PACK_ROWS * packed.shape[0], packed.shape[1])

    @classmethod
    def of(cls, weight: PackedTensor, multiply: Multiply) -> Int8Packed:
        """Return the numbers of `Int8Rows.of` for weights whose rows are a multiple of 64."""
        rows, columns = weight.shape
        packed = torch.empty((rows // PACK_ROWS, columns, PACK_ROWS // 4, 4), dtype=torch.int8)
        scales = torch.empty(rows)
        for span, piece, row_scales in _rounded(weight, PACK_ROWS):
            packed[span.start // PACK_ROWS : span.stop // PACK_ROWS], scales[span] = pack_rows(piece), row_scales
        return cls(packed, scales, multiply)

    def take(self, ids: Tensor) -> Tensor:
        """Return the rows, float32 [..., columns], at indices `ids`, int64 [...]."""
        panel, row = ids // PACK_ROWS, ids % PACK_ROWS
        numbers = self.packed[panel, :, row % (PACK_ROWS // 4), row // (PACK_ROWS // 4)]
        return numbers.float() * self.scales[ids][..., None]

    def expand(self) -> Tensor:
        """Return all rows, float32."""
        return unpack_rows(self.packed).float() * self.scales[:, None]

    def multiply_few(self, x: Tensor) -> Tensor:
        """Return the product of x [few, columns] and the rows: float32 [..., rows]."""
        return self.multiply(x.float().contiguous(), self.packed, self.scales)

    def multiply_many(self, x: Tensor, scratch: Scratch) -> Tensor:
        """Return the same in bf16 for any number of rows of x. The int8 numbers are converted to bf16 in pieces."""
        x, products = x.bfloat16(), []
        columns = self.shape[1]
        for some in torch.split(self.packed, max(1, scratch.numbers // (PACK_ROWS * columns))):
            memory = scratch.rows(1, some.numel(), x).view(columns, len(some), PACK_ROWS)
            memory.copy_(some.view(len(some), columns, PACK_ROWS).transpose(0, 1))
            product = x @ memory.view(columns, -1)
            products.append(product.view(len(x), len(some), PACK_ROWS // 4, 4).transpose(2, 3).flatten(1))
        return torch.cat(products, dim=-1).mul_(self.scales)


class Int8Linear(nn.Module):
    """A linear layer of int8 rows: x [..., in] → [..., out], in the dtype of x.

    Up to eight rows are multiplied by the int8 numbers directly. For more, these are converted in pieces in `scratch`.
    """

    def __init__(self, rows: Int8Rows | Int8Packed, bias: Tensor | None = None, scratch: Scratch | None = None) -> None:
        super().__init__()
        self.rows = rows
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.scratch = scratch or Scratch()
        self.out_features, self.in_features = rows.shape

    def forward(self, x: Tensor) -> Tensor:
        """Return x [..., in] times the weights, plus the bias."""
        flat = x.reshape(-1, self.in_features)
        few = len(flat) <= _FEW and flat.is_cpu
        out = self.rows.multiply_few(flat) if few else self.rows.multiply_many(flat, self.scratch)
        out = out.to(x.dtype)
        if self.bias is not None:
            out = out + self.bias.to(x.dtype)
        return out.view(*x.shape[:-1], self.out_features)


class Int8Embedding(nn.Module):
    """An embedding of int8 rows [vocabulary, width]. An output layer may share the rows."""

    def __init__(self, rows: Int8Rows | Int8Packed, dtype: torch.dtype) -> None:
        """`dtype` is the dtype of the returned vectors."""
        super().__init__()
        self.rows = rows
        self.dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        """Return vectors [..., width] for ids [...], int64."""
        return self.rows.take(ids).to(self.dtype)


def to_int8(module: nn.Module, dtype: torch.dtype, multiply: Multiply | None = None) -> None:
    """Replace the packed linear layers and embeddings of a module on the CPU by layers of int8 rows, one by one.

    `multiply` is a compiled product from `compiled_product`, used for layers with a multiple of 64 rows.
    """
    scratch = Scratch()

    def rows_of(weight: PackedTensor) -> Int8Rows | Int8Packed:
        if multiply is None or weight.shape[0] % PACK_ROWS:
            return Int8Rows.of(weight)
        return Int8Packed.of(weight, multiply)

    for path, layer in list(module.named_modules()):
        check_cancelled()
        if isinstance(layer, PackedLinear):
            module.set_submodule(path, Int8Linear(rows_of(layer.weight), layer.bias, scratch))
        elif isinstance(layer, PackedEmbedding):
            module.set_submodule(path, Int8Embedding(rows_of(layer.weight), dtype))


def _rounded(weight: PackedTensor, multiple: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield slices of consecutive rows, a multiple of `multiple` each, as int8 numbers and bf16 scales."""
    rows, columns = weight.shape
    step = max(1, _NUMBERS // columns // multiple) * multiple
    memory = torch.empty((min(step, rows), columns))
    for first in range(0, rows, step):
        span = slice(first, min(first + step, rows))
        piece = memory[: span.stop - first]
        some = weight.take(span)
        if some.is_as_stored:
            some.write(piece)
        else:
            piece.copy_(some.expand())
        # Round the scale before dividing by it, so that the same scale divides and multiplies.
        scales = (piece.abs().amax(1) / 127).bfloat16()
        piece.div_(scales.float().clamp_(min=torch.finfo(torch.float32).tiny)[:, None])
        yield span, piece.round_().clamp_(-127, 127).to(torch.int8), scales
