"""Writes files atomically."""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from mold_core.errors import OutputError
from mold_core.unfinished import unfinished

__all__ = ["PART_NAME", "output_error", "version_of", "write_whole"]

Writer = Callable[[BinaryIO], object]

# Names of temporary files.
PART_NAME = re.compile(r"\.mold-[0-9a-f]{16}\.part")
_ABANDONED_AFTER_S = 24 * 3600
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})


def write_whole(path: str | os.PathLike[str], data: bytes | Writer, *, replace: bool = True) -> None:
    """Write a file atomically: afterwards `path` has all of `data`, or is unchanged.

    `data` is the content, or a function that writes it into a seekable binary file (an OSError in that function counts
    as an error of the file). The content is written to a hidden file in the same folder, flushed to disk and renamed,
    so readers see either the old or the new file, also after a crash or on a full disk. A replaced file keeps its
    permissions, and a symbolic link its target. A device or pipe (``/dev/null``, ``/dev/stdout``) is written to
    directly.

    With `replace=False` an existing file is an error, also one that another process creates at the same moment.

    Raises OutputError, with the path and a hint, if the file cannot be written.
    """
    target = Path(path)
    writer: Writer = data if callable(data) else lambda file: file.write(data)
    if "\0" in str(target):
        raise OutputError("cannot write %r: a path cannot contain NUL characters", str(target), value=str(target))
    try:
        if replace:
            _replace(target, writer)
        else:
            _write_aside(target, writer, _put_new)
    except OSError as error:
        raise output_error(target, error) from error


def version_of(path: Path) -> str:
    """Return a text that changes when a file is replaced (name, size and time); empty if it does not exist."""
    try:
        about = path.stat()
    except OSError:
        return ""
    return f"{path.name} {about.st_size} {about.st_mtime_ns}"


def output_error(path: Path, error: OSError, verb: str = "write") -> OutputError:
    """Return an OutputError with the reason why `path` could not be written, and a hint."""
    reason, hint = _reason_and_hint(error)
    folder = [path.parent] if "%s" in reason else []
    return OutputError(f"cannot {verb} '%s': {reason}", path, *folder, value=str(path), hint=hint)


def _reason_and_hint(error: OSError) -> tuple[str, str]:
    """Return the reason, with ``%s`` for the name of the folder, and the hint."""
    match error.errno:
        case errno.ENOSPC:
            return "the disk is full", "free some space or choose a path on another disk"
        case errno.EDQUOT:
            return "the disk quota is used up", "delete something or choose a path on another disk"
        case errno.EFBIG:
            return "the file is larger than this disk or `ulimit -f` allows", "raise the limit or choose another disk"
        case errno.EROFS:
            return "the disk is read-only", "choose a path on a disk that can be written to"
        case errno.EACCES | errno.EPERM:
            return "permission denied", "make it and its folder writable, or choose another path"
        case errno.ENOENT:
            return "the folder '%s' does not exist", "create the folder or choose another path"
        case errno.ENOTDIR:
            return "'%s' is not a folder", "choose another path"
        case errno.EISDIR:
            return "it is a folder", "add a file name to the path"
        case errno.EEXIST:
            return "a file with this name already exists", "choose another name"
        case errno.ENAMETOOLONG:
            return "the name is too long", "choose a shorter one"
        case _:
            return (error.strerror or "the disk reported an error").lower(), "choose another path"


def _replace(path: Path, writer: Writer) -> None:
    try:
        present = path.stat()
    except FileNotFoundError:
        present = None
    if present is None or stat.S_ISREG(present.st_mode):
        if present:
            # NOTE: a rename would also replace a file that its owner made read-only; opening that one fails.
            os.close(os.open(path, os.O_WRONLY))
        mode = stat.S_IMODE(present.st_mode) if present else None
        _write_aside(Path(os.path.realpath(path)), writer, os.replace, mode)
    else:
        # A folder fails here with IsADirectoryError.
        with path.open("wb") as file:
            writer(file)


def _write_aside(path: Path, writer: Writer, put: Callable[[Path, Path], None], mode: int | None = None) -> None:
    _remove_abandoned(path.parent)
    temporary = path.parent / f".mold-{os.urandom(8).hex()}.part"
    try:
        with unfinished(temporary), open(temporary, "x+b") as file:
            if mode is not None:
                with suppress(OSError):  # FAT and some network disks have no permissions
                    os.fchmod(file.fileno(), mode)
            writer(file)
            file.flush()
            os.fsync(file.fileno())
        put(temporary, path)
        _sync_folder(path.parent)
    finally:
        # Runs for every exception, Ctrl-C included. After a rename the file does not exist any more.
        with suppress(OSError):
            temporary.unlink()


def _put_new(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # exFAT and some network disks have no hard links: claim the name with an empty file, then rename over it.
        path.open("xb").close()
        try:
            os.replace(temporary, path)
        except BaseException:
            path.unlink()
            raise


def _sync_folder(folder: Path) -> None:
    # The file is complete by now. Some disks cannot flush a folder, which is ignored.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_abandoned(folder: Path) -> None:
    """Delete temporary files of killed processes in `folder`: those older than a day."""
    # PERF: only names are read, 0.5 ms per thousand files in the folder.
    oldest = time.time() - _ABANDONED_AFTER_S
    with suppress(OSError):
        for name in os.listdir(folder):
            if PART_NAME.fullmatch(name):
                with suppress(OSError):
                    if os.stat(folder / name).st_mtime < oldest:
                        os.unlink(folder / name)
