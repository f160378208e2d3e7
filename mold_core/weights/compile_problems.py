"""Compilation failures: logged once, and recorded next to the compiled code for `mold doctor`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mold_core.errors import MoldError

__all__ = ["NoCompilerError", "compile_problems", "guarded"]

_SUFFIX = ".failed"

log = logging.getLogger("mold.weights")

Result = TypeVar("Result")


class NoCompilerError(MoldError):
    """The machine has no C++ compiler. This is common."""


def guarded(name: str, what: str, folder: Path, build: Callable[[], Result]) -> Result | None:
    """Return the result of `build`, or None after a warning if it fails (a log entry if there is no compiler).

    The reason is kept in `folder` as NAME.failed until building succeeds. `what` names in the warning the work that
    is done without compiled code: "int8 weights are multiplied".
    """
    import torch

    try:
        # Compiled code cannot write to tensors that were created in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            result = build()
    except Exception as error:  # compilers fail in many ways, and none of them is fatal
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        level = logging.INFO if isinstance(error, NoCompilerError) else logging.WARNING
        log.log(level, "%s without compiled code, which is slower: %s", what, reason)
        log.debug("compiling failed", exc_info=True)
        _note(folder / f"{name}{_SUFFIX}", f"{what} without compiled code: {reason}")
        return None
    _forget(folder / f"{name}{_SUFFIX}")
    return result


def compile_problems(cache_dir: Path) -> tuple[str, ...]:
    """Return the compilation failures that all processes recorded on this machine, one line each."""
    notes = sorted((cache_dir / "kernels").glob(f"*{_SUFFIX}"))
    return tuple(text for note in notes if (text := _text_of(note)))


def _text_of(note: Path) -> str:
    try:
        return note.read_text("utf-8", "replace").strip()[:500]
    except OSError:
        return ""


def _note(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n", "utf-8")
    except OSError as error:
        log.debug("the note cannot be written: %s", error)


def _forget(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.debug("the note cannot be removed: %s", error)
