"""Map weight files into memory, including files larger than the memory. Needs no torch and no recent Python."""

from __future__ import annotations

import mmap
import platform
import sys
import warnings
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from mold_core.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MappedFile", "map_file", "map_read_only"]

# MAP_NORESERVE by prefix of the machine name, where it is not Linux's usual 0x4000. Python has the flag since 3.13.
# Source: arch/*/include/uapi/asm/mman.h of Linux.
_LINUX_NORESERVE = {"ppc": 0x40, "sparc": 0x40, "mips": 0x400, "xtensa": 0x400, "alpha": 0x10000}


def _noreserve() -> int:
    """Return the flag for mappings without reserved memory and swap; 0 if there is none."""
    if hasattr(mmap, "MAP_NORESERVE"):
        return int(mmap.MAP_NORESERVE)
    if sys.platform == "linux":
        machine = platform.machine()
        return next((flag for name, flag in _LINUX_NORESERVE.items() if machine.startswith(name)), 0x4000)
    return 0x40 if sys.platform == "darwin" else 0


class MappedFile:
    """The bytes of a file, which is mapped into memory on the first read.

    `len` is its size in bytes. Tensors share the memory of the map as long as they exist.
    """

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError for a file that is empty or unreadable."""
        self.path = path
        self._size_bytes = _size_bytes(path)
        self._lock = Lock()
        self._bytes: Tensor | None = None

    def __len__(self) -> int:
        return self._size_bytes

    def head(self, most: int) -> bytes:
        """Return the first bytes of the file, at most `most`, read without mapping. Raises CheckpointError."""
        try:
            with self.path.open("rb") as file:
                return file.read(most)
        except OSError as error:
            raise _unreadable(self.path, error) from None

    def tensor(self, offset: int, size_bytes: int) -> Tensor:
        """Return bytes as a uint8 tensor without a copy. Raises CheckpointError if the file has changed."""
        return self._whole()[offset : offset + size_bytes]

    def _whole(self) -> Tensor:
        import torch

        with self._lock:
            if self._bytes is None:
                buffer = map_file(self.path)
                if len(buffer) < self._size_bytes:
                    raise CheckpointError("%s: the file was truncated while it was in use", self.path)
                with warnings.catch_warnings():
                    # mold never writes to read-only maps.
                    warnings.filterwarnings("ignore", message="The given buffer is not writable")
                    self._bytes = torch.frombuffer(buffer, dtype=torch.uint8)
            return self._bytes


def map_file(path: Path) -> mmap.mmap:
    """Map a file into memory. Raises CheckpointError for a file that is empty or unreadable.

    Writes to the map stay in this process (copy on write). If the system would have to reserve memory for a copy of the
    whole file, which a limit (RLIMIT_DATA, strict overcommit, Windows) can forbid, the map is read-only.
    """
    try:
        with path.open("rb") as file:
            _size_bytes(path)  # an empty file cannot be mapped
            try:
                return _map_copy_on_write(file.fileno())
            except OSError:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise _unreadable(path, error) from None


def map_read_only(path: Path, most: int) -> mmap.mmap:
    """Map the first bytes of a file, at most `most`, read-only. Raises CheckpointError."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), min(_size_bytes(path), most), access=mmap.ACCESS_READ)
    except OSError as error:
        raise _unreadable(path, error) from None


def _map_copy_on_write(descriptor: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    return mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE | _noreserve(), prot=mmap.PROT_READ | mmap.PROT_WRITE)


def _size_bytes(path: Path) -> int:
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from None
    if not size_bytes:
        raise CheckpointError("%s: the file is empty", path)
    return size_bytes


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError("%s: the file cannot be read: %s", path, error)
