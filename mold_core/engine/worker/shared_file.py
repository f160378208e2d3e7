"""A file in memory that two processes share, to pass large results without a socket."""

from __future__ import annotations

import os
import tempfile

__all__ = ["LARGE_BYTES", "make_shared_file", "read_shared", "write_shared"]

# PERF: a socket buffers 200 KB, so larger messages make both sides wait for each other repeatedly.
LARGE_BYTES = 128 * 1024


def make_shared_file() -> int:
    """Return the descriptor of a new, empty file without a name; in memory if the system supports it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("mold-results")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def write_shared(descriptor: int, data: bytes) -> None:
    """Replace the content of the file with `data`."""
    os.ftruncate(descriptor, 0)
    view, offset = memoryview(data), 0
    while offset < len(view):
        offset += os.pwrite(descriptor, view[offset:], offset)


def read_shared(descriptor: int) -> bytes:
    """Return the content of the file, and empty it."""
    size = os.fstat(descriptor).st_size
    pieces, offset = [], 0
    while offset < size:
        pieces.append(os.pread(descriptor, size - offset, offset))
        offset += len(pieces[-1])
    os.ftruncate(descriptor, 0)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
