"""The file ``.pulling`` beside a model: it stands while a pull runs, and a lock on it tells whether one really does.

A pull that was killed leaves the file and not the lock. Several pulls of a model share the lock; who removes the model
must have it alone.
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

# Where there are no such locks, a marker younger than this counts as that of a running pull.
_TRUSTED_S = 6 * 3600


@contextmanager
def holding(marker: Path, *, alone: bool = False) -> Iterator[bool]:
    """Let the marker stand, locked, for a while; give False when others have it and `alone` is asked for.

    At the end it is removed, unless others have it.
    """
    if alone and fcntl is None and pull_runs(marker):
        yield False
        return
    file = _locked(marker, alone=alone)
    if file is None:
        yield False
        return
    try:
        yield True
    finally:
        file.close()
        clear_stale(marker)


def pull_runs(marker: Path) -> bool:
    """Say whether a pull of the model is running, in any process."""
    try:
        with marker.open("rb") as file:
            if fcntl is None:
                return time.time() - os.fstat(file.fileno()).st_mtime < _TRUSTED_S
            return not _lock(file, alone=True)
    except OSError:
        return False


def clear_stale(marker: Path) -> bool:
    """Remove the marker unless a pull is running; say whether there was one to remove."""
    if fcntl is None:
        try:
            marker.unlink()
        except OSError:
            return False
        return True
    try:
        with marker.open("rb") as file:
            if not _lock(file, alone=True):
                return False
            marker.unlink()
    except OSError:
        return False
    return True


def _locked(marker: Path, *, alone: bool) -> IO[bytes] | None:
    while True:
        marker.parent.mkdir(parents=True, exist_ok=True)
        file = marker.open("ab")
        if not _lock(file, alone=alone):
            if alone:
                file.close()
                return None
            time.sleep(0.01)  # somebody looks whether a pull runs, or removes the model
            file.close()
            continue
        with suppress(OSError):
            # Between opening and locking the file may have been removed; then the lock is on nothing.
            if os.path.samestat(os.fstat(file.fileno()), marker.stat()):
                return file
        file.close()


def _lock(file: IO[bytes], *, alone: bool) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
