"""A page of memory that a worker process and its parent share: signs of life one way, cancelling the other.

Unlike a message it needs nobody at the other end who reads, so a process that hangs or is stopped blocks no one.
"""

from __future__ import annotations

import mmap
import os

from mold_core.engine.worker.shared_file import make_shared_file

__all__ = ["Pulse", "make_pulse"]

_BEATS, _PROGRESS, _BEGUN, _CANCELLED = range(4)


class Pulse:
    """The page behind a descriptor. Calls are numbered from 1."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, mmap.PAGESIZE)
        self._fields = memoryview(self._memory).cast("q")

    def beat(self) -> None:
        """Show that the process lives."""
        self._fields[_BEATS] += 1

    def progress(self) -> None:
        """Show that the work goes on."""
        self._fields[_PROGRESS] += 1

    def begin(self, call: int) -> None:
        """Show which call is worked on."""
        self._fields[_BEGUN] = call

    def cancel(self, call: int) -> None:
        """Ask for the end of a call."""
        self._fields[_CANCELLED] = call

    @property
    def beats(self) -> int:
        """A number that changes while the process lives."""
        return self._fields[_BEATS]

    @property
    def progressed(self) -> int:
        """A number that changes while the work goes on."""
        return self._fields[_PROGRESS]

    @property
    def begun(self) -> int:
        """The call that is worked on, or was last; 0 before the first."""
        return self._fields[_BEGUN]

    @property
    def cancelled(self) -> int:
        """The call whose end was asked for last; 0 before the first."""
        return self._fields[_CANCELLED]

    def close(self) -> None:
        """Let the page go."""
        self._fields.release()
        self._memory.close()


def make_pulse() -> int:
    """Return the descriptor of a new page, for a Pulse here and one in the process that inherits it."""
    descriptor = make_shared_file()
    os.ftruncate(descriptor, mmap.PAGESIZE)
    return descriptor
