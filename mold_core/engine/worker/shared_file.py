"""A file in memory that two processes share, to hand large results over without pouring them through a socket."""

from __future__ import annotations

import os
import tempfile

__all__ = ["LARGE_BYTES", "make_shared_file", "read_shared", "write_shared"]

# PERF: a socket holds 200 KB, so larger messages make both sides wait for each other, again and again.
LARGE_BYTES = 128 * 1024


def make_shared_file() -> int:
    """Return the descriptor of a new, empty file that has no name; in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("mold-results")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def write_shared(descriptor: int, data: bytes) -> None:
    """Let the file hold `data` and nothing else."""
    os.ftruncate(descriptor, 0)
    view, place = memoryview(data), 0
    while place < len(view):
        place += os.pwrite(descriptor, view[place:], place)


def read_shared(descriptor: int) -> bytes:
    """Return what the file holds, and empty it."""
    size = os.fstat(descriptor).st_size
    pieces, place = [], 0
    while place < size:
        pieces.append(os.pread(descriptor, size - place, place))
        place += len(pieces[-1])
    os.ftruncate(descriptor, 0)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
