"""The kernels of `kernels`, compiled once for this machine and cached in a folder; loading takes a millisecond.

On a CPU, torch's inductor compiles a C++ library ahead of time, so running it imports no part of the compiler. On other
devices, torch.compile generates device code, with its own cache in the same folder. Each process tries once per type. A
failure is logged as a warning, and dequantization runs without compiled code.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
import os
import platform
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mold_core.errors import MoldError
from mold_core.unfinished import unfinished
from mold_core.weights import kernels
from mold_core.weights.compile_problems import NoCompilerError, guarded
from mold_core.weights.dequantization import Kernel, dequantize
from mold_core.weights.kernels import Source
from mold_core.weights.types import StoredType

if TYPE_CHECKING:
    from mold_core.settings import CompileMode

__all__ = ["WORTH_COMPILING", "compiler", "digest_of", "keep_caches_below", "kernel_for"]

# Total count of numbers to dequantize from which compiling pays. Measured on one core: eager code takes 1.2 to 3 ns per
# number, compiled code 0.2 to 0.4 ns; compiling takes 10 to 35 s of processor time, once per machine and type.
WORTH_COMPILING = 10_000_000_000

# Inductor must not store intermediate results that are used often: the aim is one loop from bytes to numbers.
_OPTIONS: dict[str, Any] = {
    "realize_opcount_threshold": 400,
    "realize_reads_threshold": 100,
    "compile_threads": 1,
    "cpp_cache_precompile_headers": False,
}
_ON_CPUS = {"cpp.dynamic_threads": True}  # as many threads as torch has when the kernel runs
_ELSEWHERE = {"emulate_precision_casts": True}  # products and sums are rounded one by one


log = logging.getLogger("mold.weights")


def kernel_for(
    type_: StoredType,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    *,
    work: int,
    compile: CompileMode = "auto",
    cache_dir: Path | None = None,
) -> Kernel | None:
    """Return the compiled kernel for a type, or None if eager code must be used.

    `work` is the count of numbers to dequantize. With "auto", a kernel that is not cached is compiled only if
    dequantizing takes longer than compiling; with "on", always. `cache_dir` holds compiled kernels; None means the
    system's temporary folder.
    """
    place = torch.device(device).type
    if compile == "off" or type_.name not in kernels.KERNELS or place not in ("cpu", "cuda"):
        return None
    folder = (cache_dir or Path(tempfile.gettempdir()) / "mold") / "kernels"
    make = compile == "on" or work >= WORTH_COMPILING
    return _kernel(type_, dtype, place, folder.absolute(), make)


def is_to_be_compiled(
    type_: StoredType,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    *,
    work: int,
    compile: CompileMode = "auto",
    cache_dir: Path | None = None,
) -> bool:
    """Return whether `kernel_for`, with the same arguments, would compile (for seconds) instead of using the cache."""
    place = torch.device(device).type
    if compile == "off" or type_.name not in kernels.KERNELS or place not in ("cpu", "cuda"):
        return False
    path = _library_path(type_, dtype, (cache_dir or Path(tempfile.gettempdir()) / "mold") / "kernels")
    return (compile == "on" or work >= WORTH_COMPILING) and (place != "cpu" or not path.is_file())


def _library_path(type_: StoredType, dtype: torch.dtype, folder: Path) -> Path:
    return folder / f"{type_.name}-{str(dtype).removeprefix('torch.')}-{_digest()}.so"


@functools.lru_cache(maxsize=256)
def _kernel(type_: StoredType, dtype: torch.dtype, place: str, folder: Path, make: bool) -> Kernel | None:
    def build() -> Source | None:
        if place == "cpu":
            run = _library_kernel(type_, dtype, folder, make)
        else:
            run = _compiled_where_used(type_, dtype, place, folder) if make else None
        if run is not None:
            _check(run, type_, dtype, place)
        return run

    name = f"{type_.name}-{str(dtype).removeprefix('torch.')}-{place}"
    run = guarded(name, f"{type_.name} is dequantized", folder, build)
    return None if run is None else Kernel(type=type_, dtype=dtype, place=place, run=run)


def _library_kernel(type_: StoredType, dtype: torch.dtype, folder: Path, make: bool) -> Source | None:
    path = _library_path(type_, dtype, folder)
    if not path.is_file():
        if not make:
            return None
        _compile_library(type_, dtype, folder, path)
    try:
        runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(path), 1)
    except Exception:
        path.unlink(missing_ok=True)  # a damaged file is compiled again next time
        raise

    def run(blocks: Tensor, second: Tensor, out: Tensor) -> None:
        runner.run([blocks, second, out])

    return run


def _compile_library(type_: StoredType, dtype: torch.dtype, folder: Path, path: Path) -> None:
    compiler()
    log.info("compiling the dequantization of %s, once on this machine", type_.name)
    keep_caches_below(folder)
    source = kernels.KERNELS[type_.name]

    class Module(torch.nn.Module):
        def forward(self, blocks: Tensor, second: Tensor, out: Tensor) -> tuple[()]:
            source(blocks, second, out)
            return ()

    arguments = _arguments(type_, dtype, "cpu", 640)
    rows, columns = torch.export.Dim("rows", min=2), torch.export.Dim("columns", min=2)
    if type_.block_size == 1:
        shapes: tuple[dict[int, Any], ...] = ({0: rows, 1: columns}, {0: rows}, {0: rows, 1: columns})
    else:
        shapes = ({0: rows}, {0: rows}, {0: rows})
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(dir=folder) as workshop, unfinished(workshop):
        warnings.simplefilter("ignore")
        with torch.inference_mode(False), torch.no_grad():
            exported = torch.export.export(Module(), arguments, dynamic_shapes=shapes).module()
            options = {**_OPTIONS, **_ON_CPUS, "aot_inductor.output_path": str(Path(workshop) / "kernel.so")}
            library = torch._inductor.aot_compile(exported, arguments, options=options)
        os.replace(str(library), path)


def _compiled_where_used(type_: StoredType, dtype: torch.dtype, place: str, folder: Path) -> Source:
    """Return a kernel of torch.compile, which has its own cache. The first call, made here, compiles it."""
    keep_caches_below(folder)
    options = {**_OPTIONS, **(_ON_CPUS if place == "cpu" else _ELSEWHERE)}
    compiled = torch.compile(kernels.KERNELS[type_.name], fullgraph=True, options=options)

    def run(blocks: Tensor, second: Tensor, out: Tensor) -> None:
        with torch.inference_mode(False), torch.no_grad():  # torch compiles a separate kernel for each mode
            compiled(blocks, second, out)

    arguments = _arguments(type_, dtype, place, 640)
    for argument in arguments:
        torch._dynamo.mark_dynamic(argument, 0)
    if type_.block_size == 1:
        torch._dynamo.mark_dynamic(arguments[0], 1)
        torch._dynamo.mark_dynamic(arguments[2], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(*arguments)
    return run


def _check(run: Source, type_: StoredType, dtype: torch.dtype, place: str) -> None:
    """Raise if a kernel's results differ from eager code; on other devices than CPUs the last bit may differ."""
    raw, second, out = _arguments(type_, dtype, place, 1024)
    run(raw, second, out)
    expected = dequantize(raw.reshape(-1, type_.block_bytes), type_).view(out.shape)
    if type_.block_size == 1:
        expected = expected * second
    same = out.equal(expected.to(dtype)) if place == "cpu" else torch.allclose(out.float(), expected, rtol=0.01)
    if not same:
        raise MoldError("the compiled code returns wrong numbers")


def _arguments(type_: StoredType, dtype: torch.dtype, place: str, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return random blocks of finite numbers, the second argument of the kernel, and memory for the result."""
    columns = 96 if type_.block_size == 1 else type_.block_bytes
    raw = (torch.arange(rows * columns, device=place) * 2_654_435_761 >> 13).view(rows, columns) % 60
    raw = raw.to(torch.uint8)
    if type_.block_size == 1:
        second = torch.arange(1, rows + 1, device=place).float()[:, None] / 8
        return raw, second, torch.empty(rows, columns, dtype=dtype, device=place)
    return raw, raw.view(torch.float16), torch.empty(rows, type_.block_size, dtype=dtype, device=place)


def keep_caches_below(folder: Path) -> None:
    """Make torch keep its caches below a folder, unless the user configured another one."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))


def compiler() -> str:
    """Return the command of the C++ compiler. Raises NoCompilerError if there is none."""
    command = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(command) is None:
        raise NoCompilerError(f"no C++ compiler {command} on this machine")
    return command


@functools.lru_cache(maxsize=1)
def _digest() -> str:
    return digest_of(inspect.getsource(kernels), torch.__version__, repr(_OPTIONS))


def digest_of(*parts: str) -> str:
    """Return a digest of what compiled code depends on: `parts` (source, options) and this processor."""
    try:
        about = Path("/proc/cpuinfo").read_text("utf-8", "replace")
        processor = "".join(sorted({line for line in about.splitlines() if line.startswith(("model name", "flags"))}))
    except OSError:
        processor = f"{platform.machine()} {platform.processor()}"
    return hashlib.sha256("\0".join((*parts, platform.platform(), processor)).encode()).hexdigest()[:16]
