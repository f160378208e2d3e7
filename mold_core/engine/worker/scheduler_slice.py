"""Sets the scheduler time slice of threads, on Linux 6.12 and later; does nothing on other systems."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

__all__ = ["SHORT_S", "request_scheduler_slice", "scheduler_slice_of"]

# Threads with a short slice are scheduled sooner and preempted sooner; their share of CPU time is the same.
SHORT_S = 0.0001

# Numbers of the system calls by machine (set, get); glibc has functions for them only since 2.41.
_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}

# The first version of `struct sched_attr`: size, policy, flags, nice, priority, and runtime, deadline, period in ns.
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")


def request_scheduler_slice(seconds: float | None) -> None:
    """Request a time slice for this thread and the threads and processes it starts; None: the system's default.

    Does nothing if the system does not support or allow it.
    """
    calls = _calls()
    if calls is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    length_ns = 0 if seconds is None else round(seconds * 1e9)
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, length_ns, 0, 0)
    ctypes.CDLL(None).syscall(calls[0], 0, ctypes.create_string_buffer(attributes), 0)


def scheduler_slice_of(thread: int = 0) -> float | None:
    """Return the time slice of a thread (by its system thread id) in seconds; None if the system does not report it."""
    calls = _calls()
    if calls is None:
        return None
    buffer = ctypes.create_string_buffer(_ATTRIBUTES.size)
    if ctypes.CDLL(None).syscall(calls[1], thread, buffer, _ATTRIBUTES.size, 0) != 0:
        return None
    length_ns: int = _ATTRIBUTES.unpack(buffer.raw)[5]
    return length_ns / 1e9 or None


def _calls() -> tuple[int, int] | None:
    return _CALLS.get(platform.machine()) if sys.platform == "linux" else None
