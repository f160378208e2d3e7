"""Products with int8 rows at memory bandwidth: `int8_gemm.cpp`, compiled for this machine in a second and cached.

torch multiplies a row by int8 weights at half the memory bandwidth: its loop reads four rows of weights in parallel,
and processors prefetch along one. mold's own loop needs a C++ compiler, which is called directly; the library is cached
in a folder. A failure is logged as a warning, and torch's product is used.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mold_core.errors import MoldError
from mold_core.weights.compile_problems import guarded
from mold_core.weights.native_code import native_library

if TYPE_CHECKING:
    from mold_core.settings import CompileMode

__all__ = ["PACK_ROWS", "Multiply", "compiled_product", "pack_rows", "unpack_rows"]

# Multiplies x float32 [rows, in], contiguous, by packed rows int8 [count, in, 16, 4] and scales float32 [64 count].
Multiply = Callable[[Tensor, Tensor, Tensor], Tensor]

PACK_ROWS = 64
_WORDS = PACK_ROWS // 4
_SOURCE = Path(__file__).with_name("int8_gemm.cpp")


def pack_rows(rows: Tensor) -> Tensor:
    """Return rows [64 n, in] packed as [n, in, 16, 4]: word l of a column has rows l, l + 16, l + 32 and l + 48."""
    return rows.view(-1, 4, _WORDS, rows.shape[1]).permute(0, 3, 2, 1)


def unpack_rows(packed: Tensor) -> Tensor:
    """Return packed rows [n, in, 16, 4] as rows [64 n, in]."""
    return packed.permute(0, 3, 2, 1).reshape(-1, packed.shape[1])


def compiled_product(compile: CompileMode = "auto", cache_dir: Path | None = None) -> Multiply | None:
    """Return a compiled product with packed rows on the CPU, or None if it is not available.

    It is compiled if it is not cached, unless `compile` is "off". `cache_dir` holds compiled code; None means the
    system's temporary folder.
    """
    if compile == "off":
        return None
    folder = (cache_dir or Path(tempfile.gettempdir()) / "mold") / "kernels"
    return _product(folder.absolute())


@functools.lru_cache(maxsize=16)
def _product(folder: Path) -> Multiply | None:
    def build() -> Multiply:
        multiply = _multiply_of(native_library(_SOURCE, folder))
        _check(multiply)
        return multiply

    return guarded("int8-rows", "int8 weights are multiplied", folder, build)


def _multiply_of(library: ctypes.CDLL) -> Multiply:
    function = library.multiply
    function.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 4
    function.restype = None

    def multiply(x: Tensor, packed: Tensor, scales: Tensor) -> Tensor:
        out = torch.empty((len(x), len(scales)))
        function(
            x.data_ptr(), packed.data_ptr(), scales.data_ptr(), out.data_ptr(),
            len(x), len(packed), packed.shape[1], torch.get_num_threads(),
        )  # fmt: skip
        return out

    return multiply


def _check(multiply: Multiply) -> None:
    """Raise if a product computes wrong numbers."""
    rows = (torch.arange(2 * PACK_ROWS * 48) * 2_654_435_761 >> 13).remainder(255).sub(127).view(2 * PACK_ROWS, 48)
    x = torch.arange(5 * 48).remainder(7).sub(3).float().view(5, 48)
    scales = torch.arange(1, 2 * PACK_ROWS + 1).float() / 8
    packed = pack_rows(rows.to(torch.int8)).contiguous()
    # Integers below 2^24: sums are exact in any order.
    if sys.byteorder != "little" or not torch.equal(multiply(x, packed, scales), x @ rows.float().T * scales):
        raise MoldError("the compiled code returns wrong numbers")
