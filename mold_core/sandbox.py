"""Limits on processes that read untrusted files (memory, processor time, files), and their environment."""

from __future__ import annotations

import os
import sys

__all__ = ["environment", "limit_memory", "limit_processor_time", "limit_written_bytes", "memory_bytes"]

_KEPT = ("PATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR", "LD_LIBRARY_PATH", "LANG", "PYTHONHOME", "VIRTUAL_ENV")
_OPEN_FILES = 64


def environment() -> dict[str, str]:
    """Return what such a process needs of the environment: no keys and tokens, and few threads and arenas."""
    return {
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }


def limit_memory(bytes_beyond: int) -> None:
    """Limit this process to so much address space beyond what it has, and to few open files. Only Linux enforces it."""
    if sys.platform != "linux":
        return
    import resource

    limit = memory_bytes()[0] + bytes_beyond
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))


def limit_processor_time(seconds: float) -> None:
    """Let the system end this process once it has computed for so many seconds more."""
    if os.name != "posix":
        return
    import resource

    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, most))


def limit_written_bytes(most_bytes: int) -> None:
    """Let this process write no file larger than that."""
    if os.name != "posix":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))


def memory_bytes() -> list[int]:
    """Return address space and resident memory of this process. Only Linux tells."""
    with open("/proc/self/statm") as file:
        return [int(word) * os.sysconf("SC_PAGE_SIZE") for word in file.read().split()[:2]]
