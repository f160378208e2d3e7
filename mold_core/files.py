"""Files that appear whole or not at all."""

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

# The names of files that are being written.
PART_NAME = re.compile(r"\.mold-[0-9a-f]{16}\.part")
_ABANDONED_AFTER_S = 24 * 3600
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})


def write_whole(path: str | os.PathLike[str], data: bytes | Writer, *, replace: bool = True) -> None:
    """Leave a file at `path` that holds all of `data`, or leave everything as it was.

    `data` is the content, or a function that writes it into the seekable binary file it is given (an OSError out of
    that function counts as one of the file). The content goes to a hidden file beside `path`, is flushed to the disk
    and then renamed, so a reader, a crash or a full disk meets the old file or the new one and never a part. What is
    replaced keeps its permissions, and a symbolic link keeps pointing where it did. A device or pipe (``/dev/null``,
    ``/dev/stdout``) cannot be renamed over and is written to directly.

    With `replace=False` an existing file is refused, also one that another process makes at the same moment.

    Raises OutputError, naming the path and the way out, when the file cannot be written.
    """
    target = Path(path)
    writer: Writer = data if callable(data) else lambda file: file.write(data)
    if "\0" in str(target):
        raise OutputError("cannot write %r: a path cannot hold NUL characters", str(target), value=str(target))
    try:
        if replace:
            _replace(target, writer)
        else:
            _write_aside(target, writer, _put_new)
    except OSError as error:
        raise output_error(target, error) from error


def version_of(path: Path) -> str:
    """Return what tells a file from others of its name, as far as its size and its time do; empty if it is not here."""
    try:
        about = path.stat()
    except OSError:
        return ""
    return f"{path.name} {about.st_size} {about.st_mtime_ns}"


def output_error(path: Path, error: OSError, verb: str = "write") -> OutputError:
    """Return the OutputError that says in words why `path` could not be written, and what to do about it."""
    reason, way_out = _words(error)
    folder = [path.parent] if "%s" in reason else []
    return OutputError(f"cannot {verb} '%s': {reason}", path, *folder, value=str(path), hint=way_out)


def _words(error: OSError) -> tuple[str, str]:
    """Return what is wrong, with ``%s`` for the folder where it is to be named, and the way out."""
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
            return "a file of that name is already there", "choose another name"
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
    part = path.parent / f".mold-{os.urandom(8).hex()}.part"
    try:
        with unfinished(part), open(part, "x+b") as file:
            if mode is not None:
                with suppress(OSError):  # FAT and some network disks have no permissions to keep
                    os.fchmod(file.fileno(), mode)
            writer(file)
            file.flush()
            os.fsync(file.fileno())
        put(part, path)
        _sync_folder(path.parent)
    finally:
        # Also after Ctrl-C: `finally` runs for every exception. After a rename there is nothing left to remove.
        with suppress(OSError):
            part.unlink()


def _put_new(part: Path, path: Path) -> None:
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # exFAT and some network disks have no hard links: claim the name with an empty file, then rename over it.
        path.open("xb").close()
        try:
            os.replace(part, path)
        except BaseException:
            path.unlink()
            raise


def _sync_folder(folder: Path) -> None:
    # The file is in place by now. Not every disk can flush a folder, and there is nothing better to do then.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed writers left in `folder`: files of our naming pattern that are older than a day."""
    # PERF: only names are looked at, 0.5 ms for each thousand files in the folder.
    oldest = time.time() - _ABANDONED_AFTER_S
    with suppress(OSError):
        for name in os.listdir(folder):
            if PART_NAME.fullmatch(name):
                with suppress(OSError):
                    if os.stat(folder / name).st_mtime < oldest:
                        os.unlink(folder / name)
