"""C++ files of this package, compiled once for this machine (in a second) and cached in a folder."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import tempfile
from pathlib import Path

from mold_core.errors import MoldError
from mold_core.unfinished import unfinished
from mold_core.weights.compiled import compiler, digest_of

__all__ = ["native_library"]

# C++17: in older standards, containers do not align vectors.
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-Wno-psabi")
_TIMEOUT_S = 120

log = logging.getLogger("mold.weights")


def native_library(source: Path, folder: Path) -> ctypes.CDLL:
    """Return the library of a C++ file, compiled if it is not in `folder`. Raises MoldError or OSError."""
    text = source.read_text("utf-8")
    path = folder / f"{source.stem}-{digest_of(text, repr(_FLAGS))}.so"
    if not path.is_file():
        _compile(source, folder, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        path.unlink(missing_ok=True)  # a damaged file is compiled again next time
        raise


def _compile(source: Path, folder: Path, path: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    command = compiler()
    log.info("compiling %s, once on this machine", source.name)
    with tempfile.TemporaryDirectory(dir=folder) as workshop, unfinished(workshop):
        library = Path(workshop) / "library.so"
        for threads in (("-fopenmp",), ()):  # Apple's compiler has no OpenMP
            done = subprocess.run(
                [command, *_FLAGS, *threads, "-o", str(library), str(source)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
            )
            if done.returncode == 0:
                os.replace(library, path)
                return
    raise MoldError(f"{command} failed: {done.stderr.strip()}")
