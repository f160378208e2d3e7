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
    "budget_bytes",
    "choose_device",
    "choose_devices",
    "device_info",
    "free_bytes",
    "torch_name",
]

_SHARE = 0.8
_SHARE_OF_FREE = 0.9


@attrs.frozen(kw_only=True)
class DeviceInfo:
    """A device by its maker's name, and its memory in bytes, whoever uses it; 0 where it is not known."""

    name: str
    memory_used_bytes: int = 0
    memory_total_bytes: int = 0


# Device files of NVIDIA's and AMD's drivers, and of Windows' GPU under Linux. Without one of them there is no GPU.
_LINUX_GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


def choose_device(settings: Settings) -> str:
    """Return the torch name of the device to use.

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

    They are torch names, but for several workers on the CPU: those are ``cpu:0``, ``cpu:1``, … and `torch_name` says
    what torch calls them. Raises SettingsError for a GPU that is not here.
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
    if settings.gpus is None and len(present) == 1:
        return (device,)
    return tuple(f"cuda:{gpu}" for gpu in dict.fromkeys(settings.gpus or present))


def torch_name(device: str) -> str:
    """Return what torch calls a device: all workers on the CPU share one."""
    return "cpu" if device.startswith("cpu") else device


def budget_bytes(settings: Settings, device: str) -> int:
    """Return how much memory models may take on the device, in bytes."""
    if settings.memory_budget_gb is not None:
        return int(settings.memory_budget_gb * 1e9)
    if device.startswith("cuda"):
        import torch

        _free, total = torch.cuda.mem_get_info(device)
        return int(total * _SHARE)
    return int(physical_bytes() * _SHARE) // (settings.cpu_workers if device.startswith("cpu") else 1)


def device_info(device: str) -> DeviceInfo:
    """Return the name and the memory of a device."""
    if device.startswith("cuda"):
        import torch

        free, total = torch.cuda.mem_get_info(device)
        return DeviceInfo(
            name=torch.cuda.get_device_name(device), memory_used_bytes=total - free, memory_total_bytes=total
        )
    total = physical_bytes()
    return DeviceInfo(
        name=_processor_name() if device.startswith("cpu") else device,
        memory_used_bytes=total - available_bytes(),
        memory_total_bytes=total,
    )


def free_bytes(device: str) -> int:
    """Return how much memory of a device is free now, in bytes; what the system could take back counts as free."""
    if device.startswith("cuda"):
        import torch

        free, _total = torch.cuda.mem_get_info(device)
        # torch keeps what it has freed for itself; it is as good as free.
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(available_bytes() * _SHARE_OF_FREE)


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
