"""Result files on disk: which names are valid, which files are results, and their metadata."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import attrs

from mold_core.disk import reason_of
from mold_core.errors import CancelledError, MoldError, OutputError, ResultNotFoundError, ValidationError
from mold_core.gallery.entry import format_of
from mold_core.gallery.truncation import is_truncated
from mold_core.media.containers import image_format, image_size, is_gif
from mold_core.media.metadata import OutputMetadata, read_metadata

__all__ = ["Found", "Skipped", "Unusable", "check_name", "described", "not_found", "open_result", "results_in"]

_MOLD_NAME = re.compile(r"mold-(?P<model>.+?)-\d{10,}(?:-\d+)*\.[a-z0-9]+", re.IGNORECASE)
_HEAD_BYTES = 32
# The largest integer of SQLite, in nanoseconds since 1970: times from the year 1677 to 2262.
_LARGEST_TIME = 2**63 - 1


@attrs.frozen(kw_only=True)
class Found:
    """A file that looks like a result."""

    folder: str
    filename: str
    modified_ns: int
    size_bytes: int

    @property
    def path(self) -> Path:
        return Path(self.folder, self.filename)


@attrs.frozen(kw_only=True)
class Skipped:
    """A file that is named like a result but cannot be listed. `seen` changes when the file changes.

    Bytes of the name that are not UTF-8 are surrogates in `name`, as os.fsdecode() returns them.
    """

    folder: str
    name: str
    seen: str
    reason: str


class Unusable(Exception):
    """A file is not a usable result; the message gives the reason."""


def check_name(name: str) -> None:
    """Raise ValidationError for anything but a plain file name, so that no name leaves a folder."""
    if not name or name in (".", "..") or any(char in name for char in "/\\\0") or not _is_unicode(name):
        raise ValidationError("invalid filename", field="filename", value=name)


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def not_found(name: str) -> ResultNotFoundError:
    """Return the error for a name that is not in the gallery."""
    return ResultNotFoundError(f"image not found: {name}", field="filename", value=name)


def results_in(folder: str) -> Iterator[Found | Skipped]:
    """Yield the results in a folder, and unusable files named like one. Subfolders are not searched."""
    try:
        listing = os.scandir(folder)
    except OSError:
        return
    with listing:
        for item in listing:
            if not item.name.startswith(".") and format_of(item.name) is not None:
                yield _examined(folder, item)


def _examined(folder: str, item: os.DirEntry[str]) -> Found | Skipped:
    seen = ""
    try:
        status = item.stat(follow_symlinks=False)
        seen = f"{status.st_mtime_ns} {status.st_size} {stat.S_IFMT(status.st_mode)}"
        _refuse(item.name, status)
    except OSError as error:
        return Skipped(folder=folder, name=item.name, seen=seen, reason=reason_of(error))
    except Unusable as error:
        return Skipped(folder=folder, name=item.name, seen=seen, reason=str(error))
    return Found(folder=folder, filename=item.name, modified_ns=status.st_mtime_ns, size_bytes=status.st_size)


def _refuse(name: str, status: os.stat_result) -> None:
    """Raise Unusable for a file that cannot be a result, whatever its content."""
    if stat.S_ISLNK(status.st_mode):
        raise Unusable("it is a symbolic link; links are not followed")
    if not stat.S_ISREG(status.st_mode):
        raise Unusable("it is a folder" if stat.S_ISDIR(status.st_mode) else "it is not a regular file")
    if not _is_unicode(name):
        raise Unusable("its name is not UTF-8")
    if any(ord(char) < 32 or 127 <= ord(char) < 160 for char in name):
        raise Unusable("its name contains control characters")
    if not -_LARGEST_TIME <= status.st_mtime_ns <= _LARGEST_TIME:
        raise Unusable("its date is not between the years 1678 and 2261")
    if not status.st_size:
        raise Unusable("it is empty")


def open_result(path: Path) -> BinaryIO:
    """Return a regular file opened for reading. Raises ResultNotFoundError, also for a symbolic link."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise not_found(path.name) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise not_found(path.name)
    return os.fdopen(descriptor, "rb")


def described(found: Found) -> tuple[OutputMetadata, bool]:
    """Return the metadata of a file, and whether it is synthetic: derived from the file's name and size.

    Raises Unusable for a file that is unreadable, damaged, truncated, or not of the format of its name.
    """
    try:
        size, metadata = _read_header(found)
    except (Unusable, CancelledError):
        raise
    except OSError as error:
        raise Unusable(reason_of(error)) from error
    except MoldError as error:
        raise Unusable(reason_of(error.__cause__) if isinstance(error.__cause__, OSError) else error.message) from error
    except Exception as error:  # hostile bytes make decoders raise almost anything
        raise Unusable(f"it cannot be read ({type(error).__name__})") from error
    return (metadata, False) if metadata else (_synthetic(found, *size), True)


def _read_header(found: Found) -> tuple[tuple[int, int], OutputMetadata | None]:
    """Return width and height from a file's header, and its metadata. Raises Unusable for a damaged file."""
    format = format_of(found.filename)
    with open_result(found.path) as file:
        head = file.read(_HEAD_BYTES)
        if not (head[4:8] == b"ftyp" if format == "mp4" else is_gif(head) or image_format(head) is not None):
            raise Unusable("its content does not match the extension of its name")
        if is_truncated(file, found.size_bytes):
            raise Unusable("it is damaged: its end is missing")
        if format == "mp4":
            return _read_video_header(found.path)
        size = image_size(file)
    if size is None:
        raise Unusable("it is damaged")
    return size, read_metadata(found.path)


def _read_video_header(path: Path) -> tuple[tuple[int, int], OutputMetadata | None]:
    from mold_core.media.decoder import read_video

    try:
        video, metadata = read_video(path)
    except OutputError:  # PyAV is not installed
        return (0, 0), None
    return (video.width, video.height), metadata


def _synthetic(found: Found, width: int, height: int) -> OutputMetadata:
    name = _MOLD_NAME.fullmatch(found.filename)
    return OutputMetadata(
        prompt="",
        model=name["model"] if name else "unknown",
        seed=0,
        steps=0,
        guidance=0.0,
        width=width,
        height=height,
        version=f"synthesized@{found.modified_ns // 10**9}",
    )
