"""A disk of a megabyte or so, to be filled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["load_weights", "small_disk"]


@contextmanager
def small_disk(place: Path, size: str = "1m") -> Iterator[Path]:
    """Mount a small disk at a path while the block runs; skip the test where that is not possible."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    place.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def load_weights(disk: Path, *, leave_bytes: int = 0) -> Path:
    """Write a file that takes all room of a disk, or all but some bytes, and return it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\1" * 4096)
        except OSError:
            pass
        if leave_bytes:
            file.truncate(max(os.fstat(file.fileno()).st_size - leave_bytes, 0))
    return filler
