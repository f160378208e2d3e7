"""The file ``.pulling`` in a model's folder: it exists, and is locked, while a pull of the model runs.

A killed pull leaves the file but not the lock. Several pulls of a model share the lock; removing the model needs it
exclusively.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["clear_stale", "holding", "pull_runs"]

# On systems without such locks, a marker younger than this belongs to a running pull.
_TRUSTED_S = 6 * 3600


@contextmanager
def holding(marker: Path, *, exclusive: bool = False) -> Iterator[bool]:
    """Create and lock the marker during the block. Yields False if `exclusive` is set and another process has a lock.

    At the end the marker is removed, unless another process has locked it.
    """
    if exclusive and fcntl is None and pull_runs(marker):
        yield False
        return
    file = _locked(marker, exclusive=exclusive)
    if file is None:
        yield False
        return
    try:
        yield True
    finally:
        file.close()
        clear_stale(marker)


def pull_runs(marker: Path) -> bool:
    """Return whether a pull of the model is running in any process."""
    try:
        with marker.open("rb") as file:
            if fcntl is None:
                return time.time() - os.fstat(file.fileno()).st_mtime < _TRUSTED_S
            return not _lock(file, exclusive=True)
    except OSError:
        return False


def clear_stale(marker: Path) -> bool:
    """Remove the marker unless a pull is running. Returns whether one was removed."""
    if fcntl is None:
        try:
            marker.unlink()
        except OSError:
            return False
        return True
    try:
        with marker.open("rb") as file:
            if not _lock(file, exclusive=True):
                return False
            marker.unlink()
    except OSError:
        return False
    return True


def _locked(marker: Path, *, exclusive: bool) -> IO[bytes] | None:
    while True:
        marker.parent.mkdir(parents=True, exist_ok=True)
        file = marker.open("ab")
        if not _lock(file, exclusive=exclusive):
            if exclusive:
                file.close()
                return None
            time.sleep(0.01)  # another process checks whether a pull runs, or removes the model
            file.close()
            continue
        with suppress(OSError):
            # If the file was removed between opening and locking, the lock is on a deleted file.
            if os.path.samestat(os.fstat(file.fileno()), marker.stat()):
                return file
        file.close()


def _lock(file: IO[bytes], *, exclusive: bool) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
