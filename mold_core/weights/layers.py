"""Layers whose weights stay quantised in memory and are dequantized on use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mold_core.weights.fp8 import multiplies_fp8, scaled_linear
from mold_core.weights.grouped import write_grouped
from mold_core.weights.kernels import KERNELS
from mold_core.weights.packed import PackedTensor, Scratch
from mold_core.weights.rotation import rotated

if TYPE_CHECKING:
    from mold_core.weights.dequantization import Kernel
    from mold_core.weights.grouped_kernel import GroupedKernel
    from mold_core.weights.int8_linear import Int8Product

__all__ = ["PackedEmbedding", "PackedLinear"]


class _Packed(nn.Module):
    """Holds blocks and scales as parameters, so that moving, counting and freeing a module include them.

    The state dict has their bytes as they are in memory. It cannot be loaded into a dense layer.
    """

    def __init__(self, weight: PackedTensor) -> None:
        super().__init__()
        self.blocks = nn.Parameter(weight.data, requires_grad=False)
        self.stored_type = weight.type
        self.shape = weight.shape
        extras = weight.extras()
        self._forms = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in extras.items()}
        for name, tensor in extras.items():
            self.register_parameter(_bytes_name(name), _as_bytes(tensor))
        # The fields that are not tensors, with empty tensors: views would keep the memory of the originals.
        empty = {name: torch.empty(0, dtype=tensor.dtype) for name, tensor in extras.items()}
        self._form = weight.with_extras(torch.empty(0, dtype=torch.uint8), empty)

    @property
    def weight(self) -> PackedTensor:
        """The quantised weights."""
        return self._form.with_extras(self.blocks, {name: self._extra(name) for name in self._forms})

    def _extra(self, name: str) -> Tensor:
        dtype, shape = self._forms[name]
        raw: Tensor = getattr(self, _bytes_name(name))
        return raw.view(dtype).view(shape)

    def _scale(self) -> Tensor | None:
        return self._extra("scale") if "scale" in self._forms else None

    def _input_scale(self) -> Tensor | None:
        return self._extra("input_scale") if "input_scale" in self._forms else None

    def extra_repr(self) -> str:
        """Return shape and type, for `print(module)`."""
        return f"{'x'.join(map(str, self.shape))}, {self.stored_type.name}"


def _bytes_name(name: str) -> str:
    return f"{name.replace('.', '_')}_bytes"


def _as_bytes(numbers: Tensor) -> nn.Parameter:
    """Return numbers as a parameter that `module.to(torch.bfloat16)` does not round."""
    return nn.Parameter(numbers.contiguous().view(-1).view(torch.uint8), requires_grad=False)


class PackedLinear(_Packed):
    """A linear layer with quantised weights [out, in]: x [..., in] → [..., out], in the dtype of x.

    Weights are multiplied by their scale in float32, if they have one, and dequantized to the dtype of x, in pieces
    that fit `scratch`, which layers share. A layer no larger than the scratch computes exactly the same as a dense
    layer with `weight.expand(x.dtype)`. There are no gradients for x, because the scratch is overwritten.

    `scaled_linear` multiplies weights in e4m3 that have a scale in fp8, where the hardware supports it: such files are
    meant for it. `multiply_fp8`, True or False, overrides hardware and file.

    `int8_product` multiplies weights in int8 without dequantizing them, if `load_weights` has set it.
    """

    multiply_fp8: bool | None = None
    int8_product: Int8Product | None = None

    def __init__(
        self,
        weight: PackedTensor,
        bias: Tensor | None = None,
        scratch: Scratch | None = None,
        kernel: Kernel | GroupedKernel | None = None,
    ) -> None:
        """`kernel`, from `kernel_for` or `grouped_kernel`, is used for x of its dtype, on its device."""
        super().__init__(weight)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.scratch = scratch or Scratch()
        self.kernel = kernel
        self.out_features, self.in_features = weight.shape

    def forward(self, x: Tensor) -> Tensor:
        """Return x [..., in] times the weights, plus the bias."""
        if self._multiplies_fp8():
            return scaled_linear(x, self.blocks, self._scale(), self.bias, self._input_scale())
        if self.int8_product is not None:
            rows = x.reshape(-1, self.in_features)
            out = self.int8_product(rows, self.blocks, self._scale(), self._form.rotation, self.bias)
            return out.view(*x.shape[:-1], self.out_features)
        inputs = self._rotated(x)
        if torch.compiler.is_compiling():
            out = F.linear(inputs, self._traced(x.dtype), self.bias)
        else:
            out = self._multiplied(inputs)
        if "low_rank.up" in self._forms:
            down, up = (self._extra(f"low_rank.{name}").to(x.dtype) for name in ("down", "up"))
            out = out + F.linear(F.linear(x, down), up)
        return out

    def _rotated(self, x: Tensor) -> Tensor:
        """Return x scaled and rotated to match the stored numbers."""
        if "column_scale" in self._forms:
            x = (x.float() * self._extra("column_scale")).to(x.dtype)
        return rotated(x, self._form.rotation) if self._form.rotation else x

    def _multiplied(self, x: Tensor) -> Tensor:
        """Return x times the stored numbers, dequantized in pieces, plus the bias."""
        weight, pieces, first = self.weight, [], 0
        while first < self.out_features:
            memory = self.scratch.rows(self.out_features - first, self.in_features, x)
            rows = slice(first, first + len(memory))
            weight.take(rows).write(memory, self.kernel)
            pieces.append(F.linear(x, memory, None if self.bias is None else self.bias[rows]))
            first = rows.stop
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)

    def _multiplies_fp8(self) -> bool:
        if self.stored_type.name != "F8_E4M3" or self.multiply_fp8 is False or self._form.groups is not None:
            return False
        fits = self.in_features % 16 == 0 and self.out_features % 16 == 0  # the hardware requires it
        if self.multiply_fp8 is None:
            return fits and "scale" in self._forms and multiplies_fp8(self.blocks.device)
        return fits

    def _traced(self, dtype: torch.dtype) -> Tensor:
        """Return the weights as one expression that torch.compile can fuse, without shared memory."""
        type_, out = self.stored_type, torch.empty(self.shape, dtype=dtype, device=self.blocks.device)
        if self._form.groups is not None:
            names = [name for name in self._forms if name.startswith("groups.")]
            tensors = {name.removeprefix("groups."): self._extra(name) for name in names}
            write_grouped(out, self.blocks, type_, self._scale(), rounded=self._form.groups.rounded, **tensors)
            return out
        source = KERNELS[type_.name]
        if type_.block_size == 1:
            scale = self._scale()
            scales = torch.ones((), device=out.device) if scale is None else scale
            source(self.blocks, scales.expand(len(out), 1), out)
        else:
            blocks = self.blocks.view(-1, type_.block_bytes)
            source(blocks, blocks.view(torch.float16), out.view(-1, type_.block_size))
        return out

    def expand(self, dtype: torch.dtype) -> nn.Linear:
        """Return a dense layer with the same numbers, rounded to `dtype`."""
        dense = nn.Linear.__new__(nn.Linear)  # the constructor would draw random weights
        nn.Module.__init__(dense)
        dense.in_features, dense.out_features = self.in_features, self.out_features
        dense.weight = nn.Parameter(self.weight.expand(dtype), requires_grad=False)
        bias = None if self.bias is None else nn.Parameter(self.bias.to(dtype), requires_grad=False)
        dense.register_parameter("bias", bias)
        return dense


class PackedEmbedding(_Packed):
    """An embedding with quantised rows [vocabulary, width]. Only the requested rows are dequantized."""

    def __init__(self, weight: PackedTensor, dtype: torch.dtype) -> None:
        """`dtype` is the dtype of the returned vectors."""
        super().__init__(weight)
        self.dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        """Return vectors [..., width] for ids [...], int64."""
        rows = self.weight.take(ids.reshape(-1)).expand(self.dtype)
        return rows.view(*ids.shape, self.shape[1])
