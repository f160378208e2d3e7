"""Triton kernels as torch writes them for a GPU that is not there, compiled to machine code of any generation.

Run as a program: `python triton_compiling.py TYPE [CAPABILITY …]` writes the dequantization of a type of weights and
compiles each of its kernels; it prints the bytes of machine code for each. torch asks the driver and CUDA about the
device; both are answered from here.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

__all__ = ["compiled_bytes", "main", "written"]

_ROWS = 4096
_SHARED_BYTES = 101_376
_HEADER = """import triton
import triton.language as tl
from torch._inductor.runtime import triton_helpers
from torch._inductor.runtime.hints import *
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math

"""


class _Driver:
    """What torch asks Triton's driver for; it compiles for a capability, and runs nothing."""

    binary_ext = "cubin"

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: {
                "max_shared_mem": _SHARED_BYTES, "multiprocessor_count": 80, "max_num_regs": 65536, "warpSize": 32
            }
        )  # fmt: skip

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: object = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)

    def get_benchmarker(self) -> None:
        return None

    def is_active(self) -> bool:
        return True


def _pretend(capability: int) -> _Driver:
    """Let torch and Triton believe in a GPU of a capability such as 90."""
    from triton.runtime import driver

    properties = SimpleNamespace(
        name="pretend", major=capability // 10, minor=capability % 10, multi_processor_count=80, warp_size=32,
        total_memory=24 * 2**30, max_threads_per_multi_processor=1536, regs_per_multiprocessor=65536, gcnArchName="",
        shared_memory_per_block=49152, shared_memory_per_block_optin=_SHARED_BYTES, max_threads_per_block=1024,
        L2_cache_size=2**25, uuid="pretend", is_integrated=False, is_multi_gpu_board=False,
    )  # fmt: skip
    cuda: Any = torch.cuda
    cuda.is_available = lambda: True
    cuda.is_initialized = lambda: False
    cuda.device_count = lambda: 1
    cuda.current_device = lambda: 0
    cuda.get_device_properties = lambda device=None: properties
    cuda.get_device_capability = lambda device=None: (properties.major, properties.minor)
    cuda.is_bf16_supported = lambda *arguments, **named: capability >= 80
    torch.version.cuda = "13.0"  # type: ignore[assignment]
    torch._C._ensureCUDADeviceGuardSet()
    found = _Driver(capability)
    driver.set_active(found)
    return found


def written(type_name: str, dtype: torch.dtype) -> str:
    """Return the code that torch writes for the dequantization of a type on a GPU."""
    from torch._inductor import config
    from torch._inductor.debug import DebugContext
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    from mold_core.weights import compiled, kernels, type_named

    type_, source = type_named(type_name), kernels.KERNELS[type_name]

    def dequantized(blocks: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        out = torch.empty(shape, dtype=dtype, device=blocks.device)
        source(blocks, second, out)
        return out

    blocks, second, out = compiled._arguments(type_, dtype, "cpu", _ROWS)
    shape = out.shape
    graph = make_fx(
        torch.func.functionalize(dequantized, remove="mutations_and_views"),
        decomposition_table=select_decomp_table(),
        tracing_mode="fake",
    )(blocks, second)
    for node in graph.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": torch.device("cuda:0")}
    graph.recompile()
    with FakeTensorMode() as fake:
        inputs = [
            torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device="cuda:0") for one in (blocks, second)
        ]
        FakeTensorProp(graph, fake).propagate_dont_convert_inputs(*inputs)
    options = {**compiled._OPTIONS, **compiled._ELSEWHERE}
    with config.patch(options), fake, V.set_fake_mode(fake):
        lowered = GraphLowering(graph, example_inputs=inputs)
        with V.set_graph_handler(lowered), V.set_debug_handler(DebugContext()):
            lowered.run(*inputs)
            code, _ = lowered.codegen()
    return str(getattr(code, "value", code))


def compiled_bytes(code: str, target: Any, folder: Path) -> list[int]:
    """Return the bytes of machine code of each Triton kernel in the code."""
    import triton
    from triton.compiler import ASTSource

    sizes = []
    for name, body in re.findall(r"async_compile\.triton\('(\w+)', '''(.*?)'''", code, re.DOTALL):
        path = folder / f"{name}.py"
        path.write_text(_HEADER + body[body.index("@triton.jit") :])
        kernel = getattr(_imported(path), name)
        found = re.search(r"triton_meta=(\{.*?\}),\s*inductor_meta", body, re.DOTALL)
        assert found is not None, body
        meta = eval(found[1], {"DeviceProperties": lambda **named: named, "torch": torch})
        blocks = {argument: 64 for argument in kernel.arg_names if argument.endswith("BLOCK")}
        signature = {**meta["signature"], **dict.fromkeys(blocks, "constexpr")}
        constants = {**meta.get("constants", {}), **blocks}
        places = {(kernel.arg_names.index(argument),): value for argument, value in constants.items()}
        sizes.append(len(triton.compile(ASTSource(kernel, signature, places), target=target).asm["cubin"]))
    return sizes


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(type_name: str, *capabilities: str) -> None:
    """Print a line for each capability: its number and the bytes of each kernel."""
    for capability in map(int, capabilities):
        driver = _pretend(capability)
        code = written(type_name, torch.bfloat16 if capability >= 80 else torch.float16)
        with tempfile.TemporaryDirectory() as folder:
            print(capability, *compiled_bytes(code, driver.get_current_target(), Path(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
