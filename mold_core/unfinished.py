"""Temporary files and folders, which are deleted if the process is terminated."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["remove_unfinished", "unfinished"]

# Global, because the handler that ends the process must know all of them.
_paths: set[str] = set()


@contextmanager
def unfinished(path: str | os.PathLike[str]) -> Iterator[None]:
    """Register a file or folder as temporary during the block, which must delete it itself at the end."""
    name = os.fspath(path)
    _paths.add(name)
    try:
        yield
    finally:
        _paths.discard(name)


def remove_unfinished() -> None:
    """Delete the registered files and folders. Errors are ignored."""
    for name in tuple(_paths):
        with suppress(OSError):
            os.unlink(name)
            continue
        shutil.rmtree(name, ignore_errors=True)
