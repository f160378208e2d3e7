"""Linear layers of 8-bit rows, for networks that are run a few rows at a time: language models that write.

With one row a matrix product only waits for the weights to arrive from memory, and expanding blocks takes longer than
that. Rows of int8 with one scale each need no expansion: torch multiplies by them as they are
(`torch._weight_int8pack_mm`). Blocks that have scales of their own are rounded to their row's, to within 1/254 of the
row's largest number: a second, small rounding, after the file's own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mold_core.weights.expand import expand_into
from mold_core.weights.layers import PackedEmbedding, PackedLinear
from mold_core.weights.packed import PackedTensor, Scratch

__all__ = ["Int8Embedding", "Int8Linear", "Int8Rows", "to_int8"]

# Rows of input up to which multiplying by int8 is faster than expanding the weights and multiplying then: measured on
# a processor with bf16 instructions, where one row takes a third of the time of a dense product and ten rows as much.
_FEW = 8
_NUMBERS = 2**18


class Int8Rows(nn.Module):
    """A matrix [rows, columns] of int8 numbers with a bf16 scale for each row, without a bias or a use."""

    def __init__(self, numbers: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.numbers = nn.Parameter(numbers, requires_grad=False)
        self.scales = nn.Parameter(scales, requires_grad=False)

    @classmethod
    def of(cls, weight: PackedTensor) -> Int8Rows:
        """Return quantised weights [rows, columns] with their scales brought to one a row, computed piece by piece."""
        rows, columns = weight.shape
        numbers = torch.empty((rows, columns), dtype=torch.int8)
        scales = torch.empty(rows, dtype=torch.bfloat16)
        step = max(1, _NUMBERS // columns)
        memory = torch.empty((min(step, rows), columns))
        for first in range(0, rows, step):
            part = slice(first, min(first + step, rows))
            piece = memory[: part.stop - first]
            scale = weight.scale if weight.scale is None or weight.scale.ndim == 0 else weight.scale[part]
            expand_into(piece, weight.data[part], weight.type, scale)
            # Rounded before it is divided by, so that what it multiplies later is what was rounded for it.
            row_scales = (piece.abs().amax(1) / 127).bfloat16()
            scales[part] = row_scales
            piece.div_(row_scales.float().clamp_(min=torch.finfo(torch.float32).tiny)[:, None])
            numbers[part] = piece.round_().clamp_(-127, 127)
        return cls(numbers, scales)

    def expand(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the numbers [rows, columns]."""
        return (self.numbers.float() * self.scales.float()[:, None]).to(dtype)


class Int8Linear(nn.Module):
    """A linear layer of int8 rows: x [..., in] → [..., out], in the dtype of x, computed in bf16.

    Up to eight rows are multiplied by the int8 numbers themselves; for more they are expanded into `scratch` in pieces.
    """

    def __init__(self, rows: Int8Rows, bias: Tensor | None = None, scratch: Scratch | None = None) -> None:
        super().__init__()
        self.rows = rows
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.scratch = scratch or Scratch()
        self.out_features, self.in_features = rows.numbers.shape

    def forward(self, x: Tensor) -> Tensor:
        """Return x [..., in] times the weights, plus the bias."""
        flat = x.reshape(-1, self.in_features).bfloat16()
        if len(flat) <= _FEW and flat.is_cpu:
            out = torch._weight_int8pack_mm(flat, self.rows.numbers, self.rows.scales)
        else:
            out = self._expanded(flat)
        out = out.to(x.dtype)
        if self.bias is not None:
            out = out + self.bias.to(x.dtype)
        return out.view(*x.shape[:-1], self.out_features)

    def _expanded(self, x: Tensor) -> Tensor:
        parts, first = [], 0
        while first < self.out_features:
            memory = self.scratch.rows(self.out_features - first, self.in_features, x)
            part = slice(first, first + len(memory))
            memory.copy_(self.rows.numbers[part])  # exact: bf16 holds whole numbers up to 256
            parts.append(F.linear(x, memory).mul_(self.rows.scales[part]))
            first = part.stop
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class Int8Embedding(nn.Module):
    """An embedding of int8 rows [vocabulary, width]; the rows may be those of an output layer too."""

    def __init__(self, rows: Int8Rows, dtype: torch.dtype) -> None:
        """`dtype` is what the vectors come out in."""
        super().__init__()
        self.rows = rows
        self.dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        """Return vectors [..., width] for ids [...], int64."""
        vectors = self.rows.numbers[ids].float() * self.rows.scales[ids].float()[..., None]
        return vectors.to(self.dtype)


def to_int8(module: nn.Module, dtype: torch.dtype) -> None:
    """Replace the packed linear layers and embeddings of a module on the CPU by ones of int8 rows, one by one."""
    scratch = Scratch()
    for path, layer in list(module.named_modules()):
        if isinstance(layer, PackedLinear):
            module.set_submodule(path, Int8Linear(Int8Rows.of(layer.weight), layer.bias, scratch))
        elif isinstance(layer, PackedEmbedding):
            module.set_submodule(path, Int8Embedding(Int8Rows.of(layer.weight), dtype))
