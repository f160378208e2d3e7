"""The devices of this machine and what fits on them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mold_core.errors import SettingsError
from mold_core.settings import Settings

__all__ = ["budget_bytes", "choose_device"]

_SHARE = 0.8

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


def budget_bytes(settings: Settings, device: str) -> int:
    """Return how much memory models may take on the device, in bytes."""
    if settings.memory_budget_gb is not None:
        return int(settings.memory_budget_gb * 1e9)
    if device.startswith("cuda"):
        import torch

        _free, total = torch.cuda.mem_get_info(device)
        return int(total * _SHARE)
    return int(_physical_memory() * _SHARE)


def _may_have_gpu() -> bool:
    return sys.platform != "linux" or any(Path(file).exists() for file in _LINUX_GPU_FILES)


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
