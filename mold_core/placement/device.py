"""The devices of this machine and what fits on them."""

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
    """A device by its maker's name, and its memory in bytes, whoever uses it; 0 where it is not known.

    `available_bytes` is what a model could take if those that are loaded were dropped. `capability` is CUDA's.
    """

    name: str
    memory_used_bytes: int = 0
    memory_total_bytes: int = 0
    available_bytes: int = 0
    capability: tuple[int, int] | None = None


@attrs.frozen(kw_only=True)
class DeviceMemory:
    """Memory of a device in bytes: all of it, and what models could get now."""

    total_bytes: int
    available_bytes: int


# Device files of NVIDIA's and AMD's drivers, and of Windows' GPU under Linux. Without one of them there is no GPU.
_LINUX_GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


def choose_device(settings: Settings) -> str:
    """Return the kind of device to use: cuda, mps or cpu.

    torch takes seconds to import, so it is asked only where there may be something to choose.
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
            present = ", ".join(name for name, there in has.items() if there)
            raise SettingsError(
                f"device {settings.device!r} is not available", field="device", hint=f"this machine has: {present}"
            )
        return settings.device
    return next(name for name in ("cuda", "mps", "cpu") if has[name])


def choose_devices(settings: Settings) -> tuple[str, ...]:
    """Return the names of the devices to use, at least one.

    They are torch names, with the number of every GPU, so that each has one name everywhere. Several workers on the CPU
    are ``cpu:0``, ``cpu:1``, … and `torch_name` says what torch calls them. Raises SettingsError for a GPU that is not
    here.
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
    """Return the one name under which torch and every budget know a device.

    All workers on the CPU share one. ``cuda`` without a number is the GPU of `home`, or else the first.
    """
    if device == "cuda":
        return home if home.startswith("cuda:") else "cuda:0"
    return "cpu" if device.startswith("cpu") else device


def use_device(device: str) -> None:
    """Make a GPU the one that this thread computes on where it names none; each thread has its own.

    Without it, code that only says "cuda" makes a context of half a gigabyte on the first GPU, whosever that is.
    """
    if device.startswith("cuda"):
        import torch

        torch.cuda.set_device(device)


def capability_of(device: str) -> tuple[int, int] | None:
    """Return the compute capability of a GPU; None for other devices. Only for the process that computes on it."""
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.get_device_capability(device)


def budget_bytes(settings: Settings, device: str, total_bytes: int | None = None) -> int:
    """Return how much memory models may take on the device, in bytes; it has `total_bytes`, which else is asked for."""
    if settings.memory_budget_gb is not None:
        return int(settings.memory_budget_gb * 1e9)
    if total_bytes is None:
        total_bytes = device_memory(device).total_bytes
    return int(total_bytes * _SHARE) // (settings.cpu_workers if device.startswith("cpu") else 1)


def device_memory(device: str) -> DeviceMemory:
    """Return the memory of a device as it is now. Only for the process that computes on it: CUDA is asked."""
    if device.startswith("cuda"):
        import torch

        free, total = torch.cuda.mem_get_info(device)
        # torch keeps what it has freed for itself; it is as good as free.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return DeviceMemory(total_bytes=int(total), available_bytes=int(free) + cached)
    return DeviceMemory(total_bytes=physical_bytes(), available_bytes=int(available_bytes() * _SHARE_OF_FREE))


def free_bytes(device: str) -> int:
    """Return how much memory of a device is free now, in bytes; what the system could take back counts as free."""
    return device_memory(device).available_bytes


def device_info(device: str) -> DeviceInfo:
    """Return the name and the memory of a device. Only for the process that computes on it."""
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
