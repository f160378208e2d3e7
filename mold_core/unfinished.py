"""Files and folders of work under way, which a program that ends at once removes first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["remove_unfinished", "unfinished"]

# The one thing here that is the process's own: whoever ends it must know of all of them.
_paths: set[str] = set()


@contextmanager
def unfinished(path: str | os.PathLike[str]) -> Iterator[None]:
    """Know a file or folder as unfinished while the block runs, which removes it by itself in the end."""
    name = os.fspath(path)
    _paths.add(name)
    try:
        yield
    finally:
        _paths.discard(name)


def remove_unfinished() -> None:
    """Remove what is unfinished now; what cannot be removed stays."""
    for name in tuple(_paths):
        with suppress(OSError):
            os.unlink(name)
            continue
        shutil.rmtree(name, ignore_errors=True)
