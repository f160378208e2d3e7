"""Compiled dequantization of codes with group scales, on the CPU: `grouped_codes.cpp`."""

from __future__ import annotations

import ctypes
import functools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mold_core.errors import MoldError
from mold_core.weights.compile_problems import guarded
from mold_core.weights.grouped import Groups, scale_numbers, tables_of_bytes, write_grouped
from mold_core.weights.native_code import native_library
from mold_core.weights.types import StoredType, type_named

if TYPE_CHECKING:
    from mold_core.settings import CompileMode

__all__ = ["GroupedKernel", "grouped_kernel"]

_SOURCE = Path(__file__).with_name("grouped_codes.cpp")


class GroupedKernel:
    """The compiled form of `write_grouped`, several times as fast."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._write = library.mold_write_codes
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._write.argtypes = [
            pointer, number, number, number, pointer, pointer, number, number, *[pointer] * 3, number, number,
        ]  # fmt: skip
        self._write.restype = None

    def fits(self, out: Tensor, type_: StoredType, groups: Groups) -> bool:
        """Return whether the kernel can write these numbers."""
        one_table = groups.levels is None or len(groups.levels) == 1
        return one_table and type_.block_bytes == 1 and out.is_cpu and out.dtype in (torch.float32, torch.bfloat16)

    def write(self, out: Tensor, rows: Tensor, type_: StoredType, groups: Groups, scale: Tensor | None) -> None:
        """Write the numbers of rows of codes, uint8 [n, bytes], contiguous, to contiguous out [n, columns]."""
        count = len(rows)
        table = tables_of_bytes(type_, groups.levels).contiguous()
        row_scales = torch.ones(()) if scale is None else scale
        factors = torch.ones(count, 1) if groups.scales is None else scale_numbers(groups.scales)
        if not groups.rounded:
            factors = factors * row_scales
        factors = factors.contiguous()
        row_scales = row_scales.expand(count, 1).contiguous()
        offsets = None if groups.offsets is None else groups.offsets.float().contiguous()
        if offsets is not None and offsets.shape != factors.shape:
            factors = factors.expand_as(offsets).contiguous()
        self._write(
            rows.data_ptr(), count, rows.shape[1], type_.block_size, table.data_ptr(), factors.data_ptr(),
            factors.shape[1], groups.rounded, row_scales.data_ptr(),
            None if offsets is None else offsets.data_ptr(), out.data_ptr(), out.dtype == torch.bfloat16,
            torch.get_num_threads(),
        )  # fmt: skip


def grouped_kernel(compile: CompileMode = "auto", cache_dir: Path | None = None) -> GroupedKernel | None:
    """Return the kernel, compiled if it is not cached, or None if it is not available."""
    if compile == "off":
        return None
    folder = (cache_dir or Path(tempfile.gettempdir()) / "mold") / "kernels"
    return _kernel(folder.absolute())


@functools.lru_cache(maxsize=16)
def _kernel(folder: Path) -> GroupedKernel | None:
    def build() -> GroupedKernel:
        kernel = GroupedKernel(native_library(_SOURCE, folder))
        _check(kernel)
        return kernel

    return guarded("codes", "4-bit weights are dequantized", folder, build)


def _check(kernel: GroupedKernel) -> None:
    """Raise if a kernel's results differ from eager code."""
    rows = (torch.arange(3 * 64) * 2_654_435_761 >> 13).remainder(120).to(torch.uint8).view(3, 64)
    scale = torch.tensor([[0.5], [1.25], [3.0]])
    levels = torch.linspace(-1, 1, 16)[None]
    cases: list[tuple[str, dict[str, Any]]] = [
        ("CODES4", {"scales": torch.arange(24).view(3, 8) / 7, "levels": levels, "offsets": torch.ones(3, 8)}),
        ("CODES4_HIGH", {"levels": levels}),
        ("CODES4", {"scales": torch.arange(24).view(3, 8) * 9.0, "levels": levels, "rounded": True}),
        ("F8_E4M3", {"scales": torch.arange(120, 126, dtype=torch.uint8).view(3, 2)}),
    ]
    for name, groups in cases:
        type_ = type_named(name)
        for dtype in (torch.float32, torch.bfloat16):
            out, expected = (torch.empty(3, 64 * type_.block_size, dtype=dtype) for _ in range(2))
            kernel.write(out, rows, type_, Groups(**groups), scale)
            write_grouped(expected, rows, type_, scale, **groups)
            error = (out - expected).abs().max() / expected.abs().max()  # compilers may fuse products and sums
            if not error < (1e-6 if dtype == torch.float32 else 0.01):
                raise MoldError("the compiled code returns wrong numbers")
