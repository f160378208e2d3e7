"""The devices of this machine and their memory."""

from __future__ import annotations

import platform
import sys
from functools import cache
from pathlib import Path

import attrs

from mold_core.errors import SettingsError
from mold_core.host_memory import available_bytes, physical_bytes
from mold_core.settings import Settings

__all__ = [
    "DeviceInfo",
    "DeviceMemory",
    "budget_bytes",
    "capability_of",
    "choose_device",
    "choose_devices",
    "device_info",
    "device_memory",
    "free_bytes",
    "torch_name",
    "use_device",
]

_SHARE = 0.8
_SHARE_OF_FREE = 0.9


@attrs.frozen(kw_only=True)
class DeviceInfo:
    """A device with its product name, and its memory in bytes, used by any process; 0 if unknown.

    `available_bytes` is the memory that a model could use if the loaded models were unloaded. `capability` is the CUDA
    compute capability.
    """

    name: str
    memory_used_bytes: int = 0
    memory_total_bytes: int = 0
    available_bytes: int = 0
    capability: tuple[int, int] | None = None


@attrs.frozen(kw_only=True)
class DeviceMemory:
    """Memory of a device in bytes: the total, and what models could use now."""

    total_bytes: int
    available_bytes: int


# Device files of the NVIDIA and AMD drivers, and of the GPU in WSL. Without any of them, there is no GPU.
_LINUX_GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


def choose_device(settings: Settings) -> str:
    """Return the kind of device to use: cuda, mps or cpu.

    Importing torch takes seconds, so this imports it only if there may be more than one choice.
    """
    if settings.device == "cpu" or (settings.device == "auto" and not _may_have_gpu()):
        return "cpu"
    try:
        import torch
    except ImportError:
        if settings.device == "auto":
            return "cpu"
        raise SettingsError(
            f"device {settings.device!r} needs torch, which is not installed", field="device", hint="pip install torch"
        ) from None
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if settings.device != "auto":
        if not has[settings.device]:
            present = ", ".join(name for name, available in has.items() if available)
            raise SettingsError(
                f"device {settings.device!r} is not available", field="device", hint=f"this machine has: {present}"
            )
        return settings.device
    return next(name for name in ("cuda", "mps", "cpu") if has[name])


def choose_devices(settings: Settings) -> tuple[str, ...]:
    """Return the names of the devices to use, at least one.

    The names are torch names that include the number of every GPU, so that each device has one name everywhere. Several
    workers on the CPU are ``cpu:0``, ``cpu:1``, …, which `torch_name` converts to the torch name. Raises SettingsError
    for a GPU that does not exist.
    """
    device = choose_device(settings)
    if device == "cpu" and settings.cpu_workers > 1:
        return tuple(f"cpu:{number}" for number in range(settings.cpu_workers))
    if device != "cuda":
        return (device,)
    import torch

    present = [str(number) for number in range(torch.cuda.device_count())]
    for gpu in settings.gpus or ():
        if gpu not in present:
            raise SettingsError(
                f"there is no GPU {gpu!r}", field="gpus", value=gpu, hint=f"this machine has: {', '.join(present)}"
            )
    return tuple(f"cuda:{gpu}" for gpu in dict.fromkeys(settings.gpus or present))


def torch_name(device: str, home: str = "cuda:0") -> str:
    """Return the unique torch name of a device, which is also the key of its memory budget.

    All workers on the CPU share one name. ``cuda`` without a number is the GPU of `home`, or else the first GPU.
    """
    if device == "cuda":
        return home if home.startswith("cuda:") else "cuda:0"
    return "cpu" if device.startswith("cpu") else device


def use_device(device: str) -> None:
    """Set the default GPU of this thread, for code that names no GPU number; each thread has its own default.

    Without it, code that uses plain "cuda" creates a context of half a gigabyte on the first GPU, even if another
    worker uses that one.
    """
    if device.startswith("cuda"):
        import torch

        torch.cuda.set_device(device)


def capability_of(device: str) -> tuple[int, int] | None:
    """Return the compute capability of a GPU; None for other devices. Call it only in the process that uses the GPU."""
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.get_device_capability(device)


def budget_bytes(settings: Settings, device: str, total_bytes: int | None = None) -> int:
    """Return the memory in bytes that models may use on a device. `total_bytes` is its total memory; None: measure."""
    if settings.memory_budget_gb is not None:
        return int(settings.memory_budget_gb * 1e9)
    if total_bytes is None:
        total_bytes = device_memory(device).total_bytes
    return int(total_bytes * _SHARE) // (settings.cpu_workers if device.startswith("cpu") else 1)


def device_memory(device: str) -> DeviceMemory:
    """Return the current memory of a device. Call it only in the process that uses the GPU, because it calls CUDA."""
    if device.startswith("cuda"):
        import torch

        free, total = torch.cuda.mem_get_info(device)
        # torch caches freed memory for itself, so the cache counts as free.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return DeviceMemory(total_bytes=int(total), available_bytes=int(free) + cached)
    return DeviceMemory(total_bytes=physical_bytes(), available_bytes=int(available_bytes() * _SHARE_OF_FREE))


def free_bytes(device: str) -> int:
    """Return the free memory of a device in bytes; memory that the system can reclaim counts as free."""
    return device_memory(device).available_bytes


def device_info(device: str) -> DeviceInfo:
    """Return the name and the memory of a device. Call it only in the process that uses the device."""
    memory = device_memory(device)
    if device.startswith("cuda"):
        import torch

        free, total = torch.cuda.mem_get_info(device)
        return DeviceInfo(
            name=torch.cuda.get_device_name(device),
            memory_used_bytes=total - free,
            memory_total_bytes=total,
            available_bytes=memory.available_bytes,
            capability=capability_of(device),
        )
    return DeviceInfo(
        name=_processor_name() if device.startswith("cpu") else device,
        memory_used_bytes=memory.total_bytes - available_bytes(),
        memory_total_bytes=memory.total_bytes,
        available_bytes=memory.available_bytes,
    )


def _may_have_gpu() -> bool:
    return sys.platform != "linux" or any(Path(file).exists() for file in _LINUX_GPU_FILES)


@cache
def _processor_name() -> str:
    names = (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
