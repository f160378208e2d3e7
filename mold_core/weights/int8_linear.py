"""Linear layers in int8: rows of x are rotated, rounded to int8 with one scale each, and multiplied in int8.

The arithmetic of LLM.int8() without its outliers (Dettmers et al. 2022, arXiv 2208.07339), which ConvRot's rotation
removes. Processors multiply int8 twice as fast as bf16, and read half as many bytes. On a CPU, torch calls oneDNN for
the product; `int8_linear.cpp`, compiled for this machine, does the rest, or else torch's operations do. On CUDA,
comfy-kitchen's kernels are used if that package is installed, else torch's product.
"""

from __future__ import annotations

import ctypes
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mold_core.errors import MoldError
from mold_core.weights.compile_problems import guarded
from mold_core.weights.native_code import native_library
from mold_core.weights.packed import PackedTensor, Scratch
from mold_core.weights.rotation import largest_rotation, rotated
from mold_core.weights.types import type_named

if TYPE_CHECKING:
    from mold_core.settings import CompileMode

__all__ = ["Int8Product", "as_int8", "fits_int8", "int8_product", "round_rows"]

# Takes x [rows, in], the bytes of int8 weights [out, in], their scale, float32 [] or [out, 1], the group size of their
# rotation (0: none) and the bias; returns x times the weights, plus the bias, [rows, out] in the dtype of x.
Int8Product = Callable[[Tensor, Tensor, "Tensor | None", int, "Tensor | None"], Tensor]

_SOURCE = Path(__file__).with_name("int8_linear.cpp")
_MOST_COLUMNS = 65_536  # sums of this many products fit 32 bits
_SUMS = 2**23  # sums in memory at a time
_ROUNDED = 2**20  # weights rounded at a time
_FEWEST_ROWS = 32  # that CUDA's products accept


def int8_product(
    device: str | torch.device, *, compile: CompileMode = "auto", cache_dir: Path | None = None
) -> Int8Product | None:
    """Return a product with int8 weights on a device; None if none there is exact and fast.

    The layers of a network share it. Only one thread may use it at a time. `compile` and `cache_dir` are as in
    `kernel_for`.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return _kitchen_product() or _TorchProduct(_FEWEST_ROWS)
    if kind != "cpu" or not _multiplies_exactly():
        return None
    code = _compiled_code(compile, cache_dir)
    return _TorchProduct(1) if code is None else _CompiledProduct(code)


def fits_int8(weight: PackedTensor, kind: str) -> bool:
    """Return whether a kind of device can multiply the int8 numbers of a weight without dequantizing them."""
    aligned = kind == "cpu" or (weight.columns % 8 == 0 and len(weight.data) % 8 == 0)
    plain = weight.type.name == "INT8" and weight.groups is None and weight.low_rank is None
    return plain and weight.ndim == 2 and weight.columns <= _MOST_COLUMNS and aligned and weight.column_scale is None


def as_int8(weight: PackedTensor, *, compile: CompileMode = "auto", cache_dir: Path | None = None) -> PackedTensor:
    """Return quantised weights on the CPU rotated and rounded to int8, with one scale per row.

    The error is at most 1/254 of the largest magnitude of a rotated row.
    """
    rows, columns = weight.shape
    group = largest_rotation(columns)
    code = _compiled_code(compile, cache_dir)
    data, scales = torch.empty((rows, columns), dtype=torch.int8), torch.empty((rows, 1))
    step = max(1, _ROUNDED // columns)
    for first in range(0, rows, step):
        some = slice(first, first + step)
        numbers = weight.take(some).expand()
        data[some], row_scales = code.round_rows(numbers, group) if code else round_rows(numbers, group)
        scales[some] = row_scales[:, None]
    stored = data.view(torch.uint8)
    return PackedTensor(data=stored, type=type_named("INT8"), shape=weight.shape, scale=scales, rotation=group)


def round_rows(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Return rows [n, columns] rotated in groups (0: none) and rounded to int8, and their scales, float32 [n]."""
    numbers = x.float()
    if group:
        numbers = rotated(numbers, group)
    scales = (numbers.abs().amax(dim=1) / 127).clamp(min=1e-30)
    return (numbers / scales[:, None]).round().clamp(-127, 127).to(torch.int8), scales


class _TorchProduct:
    """The product as torch operations, on any device with `torch._int_mm`; torch.compile can fuse them."""

    def __init__(self, fewest_rows: int) -> None:
        self._fewest_rows = fewest_rows

    def __call__(self, x: Tensor, weight: Tensor, scale: Tensor | None, rotation: int, bias: Tensor | None) -> Tensor:
        rounded, row_scales = round_rows(x, rotation)
        missing = max(0, self._fewest_rows - len(rounded))
        if missing:
            rounded = F.pad(rounded, (0, 0, 0, missing))
        sums = torch._int_mm(rounded, weight.view(torch.int8).t())[: len(x)]
        out = sums.float() * (row_scales[:, None] * _column_scales(weight, scale))
        return (out if bias is None else out + bias.float()).to(x.dtype)


class _CompiledProduct:
    """The product on a CPU, with rotation, rounding and scaling in compiled code."""

    def __init__(self, code: _Code) -> None:
        self._code = code
        self._sums = Scratch(_SUMS)

    def __call__(self, x: Tensor, weight: Tensor, scale: Tensor | None, rotation: int, bias: Tensor | None) -> Tensor:
        inputs = (x if x.dtype in (torch.float32, torch.bfloat16) else x.float()).contiguous()
        rounded, row_scales = self._code.round_rows(inputs, rotation)
        column_scales = _column_scales(weight, scale).contiguous()
        addend = None if bias is None else bias.float().contiguous()
        matrix = weight.view(torch.int8).t()
        out = torch.empty((len(x), matrix.shape[1]), dtype=inputs.dtype)
        first = 0
        while first < len(x):
            sums = self._sums.rows(len(x) - first, matrix.shape[1], torch.empty(0, dtype=torch.int32))
            some = slice(first, first + len(sums))
            torch._int_mm(rounded[some], matrix, out=sums)
            self._code.scale_sums(sums, row_scales[some], column_scales, addend, out[some])
            first = some.stop
        return out.to(x.dtype)


class _Code:
    """The functions of `int8_linear.cpp`. Tensors are contiguous."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._round, self._scale = library.mold_round_rows, library.mold_scale_sums
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._round.argtypes = [pointer, *[number] * 4, pointer, pointer, number]
        self._scale.argtypes = [*[pointer] * 5, *[number] * 4]
        self._round.restype = self._scale.restype = None

    def round_rows(self, x: Tensor, group: int) -> tuple[Tensor, Tensor]:
        """Return the same as `round_rows`, for float32 or bf16."""
        rounded, scales = torch.empty(x.shape, dtype=torch.int8), torch.empty(len(x))
        self._round(
            x.data_ptr(), x.dtype == torch.bfloat16, *x.shape, group, rounded.data_ptr(), scales.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        return rounded, scales

    def scale_sums(
        self, sums: Tensor, row_scales: Tensor, column_scales: Tensor, bias: Tensor | None, out: Tensor
    ) -> None:
        """Write sums [rows, columns] times both scales, plus the bias, to `out`, float32 or bf16."""
        self._scale(
            sums.data_ptr(), row_scales.data_ptr(), column_scales.data_ptr(), None if bias is None else bias.data_ptr(),
            out.data_ptr(), out.dtype == torch.bfloat16, *sums.shape, torch.get_num_threads(),
        )  # fmt: skip


def _column_scales(weight: Tensor, scale: Tensor | None) -> Tensor:
    """Return the scale of each row of weights, that is, of each column of the result."""
    found = torch.ones((), device=weight.device) if scale is None else scale
    return found.reshape(-1).expand(len(weight))


def _compiled_code(compile: CompileMode, cache_dir: Path | None) -> _Code | None:
    if compile == "off":
        return None
    folder = (cache_dir or Path(tempfile.gettempdir()) / "mold") / "kernels"
    return _code(folder.absolute())


@functools.lru_cache(maxsize=16)
def _code(folder: Path) -> _Code | None:
    def build() -> _Code:
        code = _Code(native_library(_SOURCE, folder))
        _check(code)
        return code

    return guarded("int8", "int8 layers are computed", folder, build)


def _check(code: _Code) -> None:
    """Raise if the code computes wrong numbers."""
    x = (torch.arange(5 * 256) * 2_654_435_761 >> 13).remainder(509).sub(254).view(5, 256) / 64
    for inputs in (x, x.bfloat16()):
        rounded, scales = code.round_rows(inputs, 64)
        expected, expected_scales = round_rows(inputs, 64)
        if (rounded.int() - expected.int()).abs().max() > 1 or not torch.allclose(scales, expected_scales):
            raise MoldError("the compiled code returns wrong numbers")
    sums, columns = (x * 64).int(), torch.arange(1, 257).float() / 8
    for dtype in (torch.float32, torch.bfloat16):
        out = torch.empty(5, 256, dtype=dtype)
        code.scale_sums(sums, torch.ones(5), columns, columns, out)
        if not torch.equal(out, (sums.float() * columns + columns).to(dtype)):  # exact in float32
            raise MoldError("the compiled code returns wrong numbers")


@functools.lru_cache(maxsize=1)
def _multiplies_exactly() -> bool:
    """Check torch's product with the largest numbers, which overflow the 16-bit sums of some processors."""
    with torch.inference_mode(False), torch.no_grad():
        x = torch.tensor([127, -127], dtype=torch.int8).view(2, 1).expand(2, 256).contiguous()
        weights = torch.tensor([127, -128, 1], dtype=torch.int8).view(3, 1).expand(3, 256).contiguous()
        try:
            sums = torch._int_mm(x, weights.t())
        except RuntimeError:
            return False
        return torch.equal(sums.double(), x.double() @ weights.double().t())


@functools.lru_cache(maxsize=1)
def _kitchen_product() -> Int8Product | None:
    """Return comfy-kitchen's product, with fused rotation and rounding; None if the package is not installed."""
    try:
        import comfy_kitchen  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
    except ImportError:
        return None
    codes = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
    linear: Any = torch.ops.comfy_kitchen.int8_linear

    def multiply(x: Tensor, weight: Tensor, scale: Tensor | None, rotation: int, bias: Tensor | None) -> Tensor:
        numbers, scales = weight.view(torch.int8), _column_scales(weight, scale).contiguous()
        result: Tensor = linear(x.contiguous(), numbers, scales, bias, codes[x.dtype], rotation > 0, rotation or 256)
        return result

    return multiply
