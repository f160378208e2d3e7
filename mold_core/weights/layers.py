"""Layers whose weights stay quantised in memory and are expanded where they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mold_core.weights.dequantization import dequantize_into
from mold_core.weights.fp8 import multiplies_fp8, scaled_linear
from mold_core.weights.kernels import KERNELS
from mold_core.weights.packed import PackedTensor, Scratch

if TYPE_CHECKING:
    from mold_core.weights.dequantization import Kernel

__all__ = ["PackedEmbedding", "PackedLinear"]


class _Packed(nn.Module):
    """Holds blocks and scale as parameters, so that moving, counting and freeing a module sees them.

    The state dict has the blocks as they are in memory, uint8; it cannot be loaded into a dense layer.
    """

    def __init__(self, weight: PackedTensor) -> None:
        super().__init__()
        self.blocks = nn.Parameter(weight.data, requires_grad=False)
        self.scale_bytes = _as_bytes(weight.scale)
        self.input_scale_bytes = _as_bytes(weight.input_scale)
        self._scale_shape = () if weight.scale is None else tuple(weight.scale.shape)
        self.stored_type = weight.type
        self.shape = weight.shape

    @property
    def weight(self) -> PackedTensor:
        """The weights as they are."""
        return PackedTensor(
            data=self.blocks,
            type=self.stored_type,
            shape=self.shape,
            scale=self._scale(),
            input_scale=self._input_scale(),
        )

    def _scale(self) -> Tensor | None:
        return None if self.scale_bytes is None else self.scale_bytes.view(torch.float32).view(self._scale_shape)

    def _input_scale(self) -> Tensor | None:
        return None if self.input_scale_bytes is None else self.input_scale_bytes.view(torch.float32).view(())

    def extra_repr(self) -> str:
        """Say shape and type, for `print(module)`."""
        return f"{'x'.join(map(str, self.shape))}, {self.stored_type.name}"


def _as_bytes(numbers: Tensor | None) -> nn.Parameter | None:
    """Return fp32 numbers so that `module.to(torch.bfloat16)` does not round them."""
    if numbers is None:
        return None
    return nn.Parameter(numbers.contiguous().view(-1).view(torch.uint8), requires_grad=False)


class PackedLinear(_Packed):
    """A linear layer with quantised weights [out, in]: x [..., in] → [..., out], in the dtype of x.

    Weights are expanded to the dtype of x, in pieces that fit `scratch`, which layers share; with fp8's scale, if any,
    multiplied in float32 before that. A layer no larger than the scratch gives exactly what a dense layer with
    `weight.expand(x.dtype)` gives. There are no gradients for x while the scratch is used again.

    Weights in e4m3 that came with a scale are multiplied as they are, by `scaled_linear`, where the hardware has that:
    such files are made for it. `multiply_fp8` of True or False decides it against hardware and file.
    """

    multiply_fp8: bool | None = None

    def __init__(
        self,
        weight: PackedTensor,
        bias: Tensor | None = None,
        scratch: Scratch | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        """`kernel` is a compiled expansion from `kernel_for`; it is used for x of its dtype, on its kind of device."""
        super().__init__(weight)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.scratch = scratch or Scratch()
        self.kernel = kernel
        self.out_features, self.in_features = weight.shape

    def forward(self, x: Tensor) -> Tensor:
        """Return x [..., in] times the weights, plus the bias."""
        if self._multiplies_fp8():
            return scaled_linear(x, self.blocks, self._scale(), self.bias, self._input_scale())
        if torch.compiler.is_compiling():
            return F.linear(x, self._traced(x.dtype), self.bias)
        scale, parts, first = self._scale(), [], 0
        while first < self.out_features:
            memory = self.scratch.rows(self.out_features - first, self.in_features, x)
            rows = slice(first, first + len(memory))
            row_scale = scale if scale is None or scale.ndim == 0 else scale[rows]
            dequantize_into(memory, self.blocks[rows], self.stored_type, row_scale, self.kernel)
            parts.append(F.linear(x, memory, None if self.bias is None else self.bias[rows]))
            first = rows.stop
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def _multiplies_fp8(self) -> bool:
        if self.stored_type.name != "F8_E4M3" or self.multiply_fp8 is False:
            return False
        fits = self.in_features % 16 == 0 and self.out_features % 16 == 0  # what the hardware asks for
        if self.multiply_fp8 is None:
            return fits and self.scale_bytes is not None and multiplies_fp8(self.blocks.device)
        return fits

    def _traced(self, dtype: torch.dtype) -> Tensor:
        """Return the weights as torch.compile can fuse them: one expression, no memory that is used again."""
        type_, source = self.stored_type, KERNELS[self.stored_type.name]
        out = torch.empty(self.shape, dtype=dtype, device=self.blocks.device)
        if type_.block_size == 1:
            scale = self._scale()
            scales = torch.ones((), device=out.device) if scale is None else scale
            source(self.blocks, scales.expand(len(out), 1), out)
        else:
            blocks = self.blocks.view(-1, type_.block_bytes)
            source(blocks, blocks.view(torch.float16), out.view(-1, type_.block_size))
        return out

    def expand(self, dtype: torch.dtype) -> nn.Linear:
        """Return a dense layer of the same numbers, rounded to `dtype`."""
        dense = nn.Linear.__new__(nn.Linear)  # not made by its constructor: that would draw random weights first
        nn.Module.__init__(dense)
        dense.in_features, dense.out_features = self.in_features, self.out_features
        dense.weight = nn.Parameter(self.weight.expand(dtype), requires_grad=False)
        bias = None if self.bias is None else nn.Parameter(self.bias.to(dtype), requires_grad=False)
        dense.register_parameter("bias", bias)
        return dense


class PackedEmbedding(_Packed):
    """An embedding with quantised rows [vocabulary, width]: only the rows that are asked for are expanded."""

    def __init__(self, weight: PackedTensor, dtype: torch.dtype) -> None:
        """`dtype` is what the vectors come out in."""
        super().__init__(weight)
        self.dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        """Return vectors [..., width] for ids [...], int64."""
        rows = ids.reshape(-1)
        out = torch.empty((len(rows), self.shape[1]), dtype=self.dtype, device=self.blocks.device)
        scale = self._scale()
        dequantize_into(
            out, self.blocks[rows], self.stored_type, scale if scale is None or scale.ndim == 0 else scale[rows]
        )
        return out.view(*ids.shape, self.shape[1])
