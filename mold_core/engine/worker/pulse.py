"""A page of memory shared by a worker process and its parent: heartbeat and progress one way, cancellation the other.

Unlike a message, it needs no reader at the other end, so a process that hangs or is stopped blocks no other.
"""

from __future__ import annotations

import mmap
import os

from mold_core.engine.worker.shared_file import make_shared_file

__all__ = ["Pulse", "make_pulse"]

_BEATS, _PROGRESS, _BEGUN, _CANCELLED = range(4)


class Pulse:
    """The shared page of a file descriptor. Calls are numbered from 1."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, mmap.PAGESIZE)
        self._fields = memoryview(self._memory).cast("q")

    def beat(self) -> None:
        """Increment the heartbeat of the process."""
        self._fields[_BEATS] += 1

    def progress(self) -> None:
        """Record progress of the work."""
        self._fields[_PROGRESS] += 1

    def begin(self, call: int) -> None:
        """Record the number of the current call."""
        self._fields[_BEGUN] = call

    def cancel(self, call: int) -> None:
        """Request the cancellation of a call."""
        self._fields[_CANCELLED] = call

    @property
    def beats(self) -> int:
        """A counter that increases while the process is alive."""
        return self._fields[_BEATS]

    @property
    def progressed(self) -> int:
        """A counter that increases while the work makes progress."""
        return self._fields[_PROGRESS]

    @property
    def begun(self) -> int:
        """The current or last call; 0 before the first."""
        return self._fields[_BEGUN]

    @property
    def cancelled(self) -> int:
        """The call that was cancelled last; 0 if none was."""
        return self._fields[_CANCELLED]

    def close(self) -> None:
        """Unmap the page."""
        self._fields.release()
        self._memory.close()


def make_pulse() -> int:
    """Return the descriptor of a new page, for a Pulse in this process and one in the process that inherits it."""
    descriptor = make_shared_file()
    os.ftruncate(descriptor, mmap.PAGESIZE)
    return descriptor
