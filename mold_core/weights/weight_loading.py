"""Load weights into networks: every tensor must match, or the file belongs to another model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor, nn

from mold_core.cancelling import check_cancelled
from mold_core.deprecated import renamed_arguments
from mold_core.errors import CheckpointError
from mold_core.weights.blocks import check_between_blocks
from mold_core.weights.compiled import is_to_be_compiled, kernel_for
from mold_core.weights.grouped_kernel import grouped_kernel
from mold_core.weights.int8_linear import as_int8, fits_int8, int8_product
from mold_core.weights.layers import PackedEmbedding, PackedLinear
from mold_core.weights.packed import PackedTensor, Scratch
from mold_core.weights.progress import LoadProgress, bring_into_memory
from mold_core.weights.source import TensorSource, shown
from mold_core.weights.staging import copier_to
from mold_core.weights.types import StoredType

if TYPE_CHECKING:
    from mold_core.settings import CompileMode, ComputeMode
    from mold_core.weights.dequantization import Kernel
    from mold_core.weights.grouped_kernel import GroupedKernel
    from mold_core.weights.int8_linear import Int8Product

__all__ = ["load_weights", "weight_bytes"]


@renamed_arguments(expand_within_bytes="dequantize_within_bytes")
def load_weights(
    module: nn.Module,
    tensors: Mapping[str, Tensor | PackedTensor],
    source: object,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    expand: bool = False,
    as_stored: bool = False,
    dequantize_within_bytes: int | None = None,
    compile: CompileMode = "auto",
    cache_dir: Path | None = None,
    compute: ComputeMode = "auto",
    runs_on: str | torch.device | None = None,
    uses: int = 4,
    progress: LoadProgress | None = None,
) -> None:
    """Load `tensors` as the weights of `module`, preferably one on the meta device.

    Packed layers replace linear layers and embeddings with quantised weights; with `expand`, these weights are
    dequantized once. All other quantised tensors are dequantized. Plain tensors are used without a copy if they are on
    `device` and have `dtype` (with `as_stored`: any dtype). A missing tensor, an extra one or a wrong shape raises
    CheckpointError with `source` (a path) and the first such tensors, and leaves the module unchanged. Loading stops
    when the work is cancelled; later, so does the module, between two blocks.

    `dequantize_within_bytes` is memory to trade for speed: quantised weights are dequantized once if all of them fit.
    `compile` and `cache_dir` control compiled dequantization, as in `kernel_for`. `uses` is about how often the module
    will run, on which "auto" depends. `progress` receives loaded bytes and compilations.

    `compute` selects the arithmetic of linear layers: "exact" multiplies dequantized numbers; "auto" multiplies int8 by
    int8 if the file stores int8; "int8" does so for Q8_0 and fp8 as well, if the module runs on the CPU. `runs_on` is
    the device that the module runs on, if its weights are streamed there from `device`.
    """
    _check(module, tensors, source)
    dtype_or_bf16 = dtype or torch.bfloat16
    int8 = _Int8Layers.of(tensors.values(), runs_on or device or "cpu", compute, compile, cache_dir)
    if dequantize_within_bytes is not None and int8.product is None:  # dense layers are slower than int8
        expand = expand or weight_bytes(tensors, dtype_or_bf16, expand=True) <= dequantize_within_bytes
    dequantized = tensors if expand else int8.others(tensors)
    numbers = _packed_numbers(dequantized, device or "cpu")
    kernels = {
        type_: _kernel(
            type_,
            dtype_or_bf16,
            device or "cpu",
            progress,
            work=count * (1 if expand else uses),
            compile=compile,
            cache_dir=cache_dir,
        )
        for type_, count in numbers.items()
    }
    scratch = Scratch(
        _scratch_numbers(sum(_matrix_numbers(tensor) for tensor in dequantized.values()), device or "cpu")
    )
    copied = copier_to(device)
    dense: dict[str, Tensor] = {}
    done, total = 0, sum(map(_stored_bytes, tensors.values()))
    for name, tensor in tensors.items():
        check_cancelled()
        if progress is not None:
            if not as_stored and torch.device(device or "cpu").type != "cuda":  # a copy to a GPU reads the pages itself
                bring_into_memory(tensor if isinstance(tensor, Tensor) else tensor.data)
            done += _stored_bytes(tensor)
            progress.advance(done, total)
        if isinstance(tensor, Tensor):
            target_dtype = dtype if tensor.is_floating_point() and not as_stored else None
            dense[name] = copied(tensor).to(device=device, dtype=target_dtype)
            continue
        packed = tensor if device is None else attrs.evolve(tensor, data=copied(tensor.data)).to(device)
        if int8.product is not None and int8.rounds(packed) and not expand:
            packed = as_int8(packed, compile=compile, cache_dir=cache_dir)
        grouped = _is_grouped(packed, device or "cpu")
        kernel = grouped_kernel(compile, cache_dir) if grouped else kernels.get(packed.type)
        product = int8.product if int8.multiplies(packed) else None
        if expand or not _take(module, name, packed, dtype_or_bf16, scratch, kernel, product):
            dense[name] = packed.expand(dtype_or_bf16, kernel)
    module.load_state_dict(dense, assign=True, strict=False)
    check_between_blocks(module)


def _kernel(
    type_: StoredType,
    dtype: torch.dtype,
    device: str | torch.device,
    progress: LoadProgress | None,
    *,
    work: int,
    compile: CompileMode,
    cache_dir: Path | None,
) -> Kernel | None:
    """Return the kernel of `kernel_for`, and report if it must be compiled."""
    if progress is None or not is_to_be_compiled(type_, dtype, device, work=work, compile=compile, cache_dir=cache_dir):
        return kernel_for(type_, dtype, device, work=work, compile=compile, cache_dir=cache_dir)
    with progress.compiling(f"the kernel for {type_.name}"):
        return kernel_for(type_, dtype, device, work=work, compile=compile, cache_dir=cache_dir)


@attrs.frozen
class _Int8Layers:
    """The layers of a module that multiply in int8, and the product to use; `kind` is the kind of its device."""

    product: Int8Product | None
    kind: str
    compute: ComputeMode

    @classmethod
    def of(
        cls,
        tensors: Iterable[Tensor | PackedTensor],
        device: str | torch.device,
        compute: ComputeMode,
        compile: CompileMode,
        cache_dir: Path | None,
    ) -> _Int8Layers:
        """Look up a product if any of the tensors needs one."""
        layers = cls(None, torch.device(device).type, compute)
        if any(isinstance(one, PackedTensor) and (layers.multiplies(one) or layers.rounds(one)) for one in tensors):
            return attrs.evolve(layers, product=int8_product(device, compile=compile, cache_dir=cache_dir))
        return layers

    def multiplies(self, weight: PackedTensor) -> bool:
        """Return whether a weight is multiplied in int8 as stored."""
        return self.compute != "exact" and fits_int8(weight, self.kind)

    def rounds(self, weight: PackedTensor) -> bool:
        """Return whether a matrix of 8-bit numbers is rounded to int8 rows."""
        eight_bits = weight.type.name in ("Q8_0", "F8_E4M3", "F8_E5M2") and weight.groups is None
        return self.compute == "int8" and self.kind == "cpu" and eight_bits and weight.ndim == 2

    def others(self, tensors: Mapping[str, Tensor | PackedTensor]) -> dict[str, Tensor | PackedTensor]:
        """Return the tensors that are not multiplied in int8."""
        if self.product is None:
            return dict(tensors)
        packed = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, PackedTensor)}
        taken = {name for name, tensor in packed.items() if self.multiplies(tensor) or self.rounds(tensor)}
        return {name: tensor for name, tensor in tensors.items() if name not in taken}


def _stored_bytes(tensor: Tensor | PackedTensor) -> int:
    data = tensor if isinstance(tensor, Tensor) else tensor.data
    return data.numel() * data.element_size()


def weight_bytes(
    tensors: Mapping[str, Tensor | PackedTensor | TensorSource], dtype: torch.dtype, *, expand: bool = False
) -> int:
    """Return the memory of tensors in a network: quantised ones as stored, or dequantized with `expand`.

    All others are counted in `dtype`. Tensors may be descriptions from the header of a file.
    """
    total = 0
    for tensor in tensors.values():
        if isinstance(tensor, Tensor):
            stays, size_bytes = not tensor.is_floating_point(), tensor.numel() * tensor.element_size()
        else:
            plain = isinstance(tensor, TensorSource) and not tensor.type.quantised
            stays, size_bytes = not (expand or (plain and _is_float(tensor.type))), tensor.size_bytes
        total += size_bytes if stays else math.prod(tensor.shape) * dtype.itemsize
    return total


def _is_float(type_: StoredType) -> bool:
    return bool(getattr(torch, type_.torch_dtype or "uint8").is_floating_point)


def _is_grouped(weight: PackedTensor, device: str | torch.device) -> bool:
    """Return whether `grouped_kernel` dequantizes a weight. PERF: on CPUs also fp8 and int8, four times as fast."""
    return weight.groups is not None or (weight.type.block_size == 1 and torch.device(device).type == "cpu")


def _packed_numbers(tensors: Mapping[str, Tensor | PackedTensor], device: str | torch.device) -> dict[StoredType, int]:
    """Return the count of numbers in matrices of each type that `kernel_for` has a kernel for."""
    counts: dict[StoredType, int] = {}
    for tensor in tensors.values():
        if isinstance(tensor, PackedTensor) and tensor.ndim == 2 and not _is_grouped(tensor, device):
            counts[tensor.type] = counts.get(tensor.type, 0) + _matrix_numbers(tensor)
    return counts


def _matrix_numbers(tensor: Tensor | PackedTensor) -> int:
    """Return the count of numbers in a quantised matrix; 0 for any other tensor."""
    return math.prod(tensor.shape) if isinstance(tensor, PackedTensor) and tensor.ndim == 2 else 0


def _scratch_numbers(packed: int, device: str | torch.device) -> int:
    """Return how many numbers layers may dequantize at a time.

    PERF: every piece of a layer has an overhead of 0.3 ms, so few large pieces are faster: with 2^24
    numbers the layers of a 12B transformer at 96 tokens take 1.26 times the dense ones' time, with 2^21 1.49. A small
    network must not take much more memory than its file: 1/64 of its numbers, which are several times as large once
    dequantized, stays below 10 %.
    """
    if torch.device(device).type != "cpu":
        return 2**26
    return min(2**24, max(2**20, packed // 64))


def _take(
    module: nn.Module,
    name: str,
    weight: PackedTensor,
    dtype: torch.dtype,
    scratch: Scratch,
    kernel: Kernel | GroupedKernel | None,
    product: Int8Product | None,
) -> bool:
    """Replace a weight's layer by a packed one. Return whether its kind of layer can be packed."""
    path, _, kind = name.rpartition(".")
    layer = module.get_submodule(path)
    if kind != "weight" or len(weight.shape) != 2:
        return False
    if type(layer) is nn.Linear:
        packed = PackedLinear(weight, layer.bias, scratch, kernel)
        packed.int8_product = product
        module.set_submodule(path, packed)
    elif type(layer) is nn.Embedding:
        module.set_submodule(path, PackedEmbedding(weight, dtype))
    else:
        return False
    return True


def _check(module: nn.Module, tensors: Mapping[str, Tensor | PackedTensor], source: object) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    problems = [
        *(f"lacks {name}" for name in expected if name not in tensors),
        *(f"has {shown(name)[1:-1]}, which the model does not" for name in tensors if name not in expected),
        *(
            f"has {name} of shape {list(tensor.shape)} where {list(expected[name])} is needed"
            for name, tensor in tensors.items()
            if name in expected and tuple(tensor.shape) != expected[name]
        ),
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError("%s does not match the model: it %s", source, "; it ".join(problems[:3]) + more)
