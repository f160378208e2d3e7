"""NVIDIA's management library (NVML): memory and capability of a GPU, without a CUDA context in this process.

A context takes a third to half of a gigabyte on the device for the lifetime of the process. Function names and
structure layouts are those of nvml.h.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import Any

import attrs

__all__ = ["GpuState", "gpu_state"]

_LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"


@attrs.frozen(kw_only=True)
class GpuState:
    """Memory of a GPU in bytes, used by any process, and its compute capability."""

    free_bytes: int
    total_bytes: int
    capability: tuple[int, int] | None = None


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def gpu_state(number: int) -> GpuState | None:
    """Return the state of the GPU with a CUDA number; None if the library is missing or fails.

    Respects CUDA_VISIBLE_DEVICES. On machines with different GPU models, CUDA numbers the GPUs like NVML only with
    CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    library = _library()
    if library is None:
        return None
    handle = _handle(library, number)
    memory = _Memory()
    if handle is None or library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) != 0:
        return None
    return GpuState(free_bytes=memory.free, total_bytes=memory.total, capability=_capability(library, handle))


@cache
def _library() -> Any:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    return library if library.nvmlInit_v2() == 0 else None


def _handle(library: Any, number: int) -> Any:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    words = None if visible is None else [word.strip() for word in visible.split(",")]
    if words is not None and number >= len(words):
        return None
    word = str(number) if words is None else words[number]
    handle = ctypes.c_void_p()
    if word.isdecimal():
        failed = library.nvmlDeviceGetHandleByIndex_v2(int(word), ctypes.byref(handle))
    else:
        failed = library.nvmlDeviceGetHandleByUUID(word.encode(), ctypes.byref(handle))
    return None if failed else handle


def _capability(library: Any, handle: Any) -> tuple[int, int] | None:
    major, minor = ctypes.c_int(), ctypes.c_int()
    if library.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor)) != 0:
        return None
    return major.value, minor.value
