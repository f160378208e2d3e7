"""Products with int8 rows at the speed of memory: `int8_gemm.cpp`, compiled for this machine in a second and kept.

torch multiplies a row by int8 weights at half the speed that memory has (its loop follows four rows of weights at once,
and processors fetch ahead along one). A loop of our own needs a C++ compiler, which is called directly; what was made
is kept in a folder and loaded ever after. Whatever fails is logged, and torch's product does the work.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mold_core.errors import MoldError
from mold_core.unfinished import unfinished
from mold_core.weights.compiled import compiler, digest_of

if TYPE_CHECKING:
    from mold_core.settings import CompileMode

__all__ = ["PACK_ROWS", "Multiply", "compiled_product", "pack_rows", "unpack_rows"]

# Multiplies x float32 [rows, in], contiguous, by packed rows int8 [count, in, 16, 4] and scales float32 [64 count].
Multiply = Callable[[Tensor, Tensor, Tensor], Tensor]

PACK_ROWS = 64
_WORDS = PACK_ROWS // 4
_SOURCE = Path(__file__).with_name("int8_gemm.cpp")
_FLAGS = ("-O3", "-march=native", "-shared", "-fPIC", "-Wno-psabi")
_TIMEOUT_S = 120

log = logging.getLogger("mold.weights")


def pack_rows(rows: Tensor) -> Tensor:
    """Return rows [64 n, in] packed as [n, in, 16, 4]: word l of a column holds rows l, l + 16, l + 32, l + 48."""
    return rows.view(-1, 4, _WORDS, rows.shape[1]).permute(0, 3, 2, 1)


def unpack_rows(packed: Tensor) -> Tensor:
    """Return packed rows [n, in, 16, 4] as rows [64 n, in]."""
    return packed.permute(0, 3, 2, 1).reshape(-1, packed.shape[1])


def compiled_product(compile: CompileMode = "auto", cache_dir: Path | None = None) -> Multiply | None:
    """Return a compiled product with packed rows on the CPU, or None where there is none.

    It is made where it was never made on this machine, unless `compile` is "off". `cache_dir` keeps what is compiled;
    None stands for the system's temporary folder.
    """
    if compile == "off":
        return None
    folder = (cache_dir or Path(tempfile.gettempdir()) / "mold") / "kernels"
    return _product(folder.absolute())


@functools.lru_cache(maxsize=16)
def _product(folder: Path) -> Multiply | None:
    try:
        path = folder / f"int8-{digest_of(_SOURCE.read_text('utf-8'), repr(_FLAGS))}.so"
        if not path.is_file():
            _compile(folder, path)
        multiply = _loaded(path)
        _check(multiply)
    except Exception as error:  # compilers and linkers fail in many ways, none of which is a reason not to go on
        reason = str(error).strip().partition("\n")[0]
        log.info("int8 weights are multiplied without compiled code: %s: %s", type(error).__name__, reason)
        return None
    return multiply


def _compile(folder: Path, path: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    command = compiler()
    log.info("compiling the product with int8 weights, once on this machine")
    with tempfile.TemporaryDirectory(dir=folder) as workshop, unfinished(workshop):
        made = Path(workshop) / "product.so"
        for threads in (("-fopenmp",), ()):  # Apple's compiler has no OpenMP
            arguments = [command, *_FLAGS, *threads, "-o", str(made), str(_SOURCE)]
            done = subprocess.run(
                arguments,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
            )
            if done.returncode == 0:
                os.replace(made, path)
                return
    raise MoldError(f"{command} failed: {done.stderr.strip()}")


def _loaded(path: Path) -> Multiply:
    try:
        function = ctypes.CDLL(str(path)).multiply
    except (OSError, AttributeError):
        path.unlink(missing_ok=True)
        raise
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
    """Refuse a product that computes other numbers."""
    rows = (torch.arange(2 * PACK_ROWS * 48) * 2_654_435_761 >> 13).remainder(255).sub(127).view(2 * PACK_ROWS, 48)
    x = torch.arange(5 * 48).remainder(7).sub(3).float().view(5, 48)
    scales = torch.arange(1, 2 * PACK_ROWS + 1).float() / 8
    packed = pack_rows(rows.to(torch.int8)).contiguous()
    # Whole numbers below 2^24: the order of the sums does not matter.
    if sys.byteorder != "little" or not torch.equal(multiply(x, packed, scales), x @ rows.float().T * scales):
        raise MoldError("the compiled code returns wrong numbers")
