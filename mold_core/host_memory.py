"""Memory of this machine, as its system reports it: Linux, macOS and Windows."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

__all__ = ["available_bytes", "physical_bytes"]


def physical_bytes() -> int:
    """Return the size of the machine's memory in bytes."""
    if sys.platform == "win32":
        return _windows_status().total
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_bytes() -> int:
    """Return the bytes that programs can still get; all of the memory where the system does not say."""
    if sys.platform == "win32":
        return _windows_status().available
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return physical_bytes()


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load_percent", ctypes.c_uint32),
        ("total", ctypes.c_uint64),
        ("available", ctypes.c_uint64),
        ("page_file_total", ctypes.c_uint64),
        ("page_file_available", ctypes.c_uint64),
        ("virtual_total", ctypes.c_uint64),
        ("virtual_available", ctypes.c_uint64),
        ("extended_available", ctypes.c_uint64),
    )


def _windows_status() -> _MemoryStatus:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    # Looked up by name: type checkers on other systems know no windll.
    windll = getattr(ctypes, "windll")  # noqa: B009
    if not windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        raise OSError("GlobalMemoryStatusEx failed")
    return status


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
