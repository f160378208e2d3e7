"""Files on disk as the gallery sees them: which names may be asked for, which files are results, what they tell."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import attrs

from mold_core.errors import MoldError, OutputError, ResultNotFoundError, ValidationError
from mold_core.gallery.entry import format_of
from mold_core.media.containers import image_format, is_gif
from mold_core.media.metadata import OutputMetadata, read_metadata

__all__ = ["Found", "check_name", "described", "not_found", "open_result", "results_in"]

_MADE_BY_MOLD = re.compile(r"mold-(?P<model>.+?)-\d{10,}(?:-\d+)*\.[a-z0-9]+", re.IGNORECASE)
_HEAD_BYTES = 32


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


def check_name(name: str) -> None:
    """Raise ValidationError for anything but a plain file name, so that no name leads out of a folder."""
    if not name or name in (".", "..") or any(char in name for char in "/\\\0") or not _is_unicode(name):
        raise ValidationError("invalid filename", field="filename", value=name)


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def not_found(name: str) -> ResultNotFoundError:
    """Return the error for a name that the gallery does not have."""
    return ResultNotFoundError(f"image not found: {name}", field="filename", value=name)


def results_in(folder: str) -> Iterator[Found]:
    """Yield the results that lie in a folder, not those deeper down; symbolic links are not followed."""
    try:
        listing = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with listing:
        for item in listing:
            if item.name.startswith(".") or format_of(item.name) is None or not _is_unicode(item.name):
                continue
            try:
                if not item.is_file(follow_symlinks=False):
                    continue
                status = item.stat(follow_symlinks=False)
            except OSError:
                continue
            if status.st_size:
                yield Found(
                    folder=folder, filename=item.name, modified_ns=status.st_mtime_ns, size_bytes=status.st_size
                )


def open_result(path: Path) -> BinaryIO:
    """Return a regular file opened for reading; a symbolic link counts as no file. Raises ResultNotFoundError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise not_found(path.name) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise not_found(path.name)
    return os.fdopen(descriptor, "rb")


def described(found: Found) -> tuple[OutputMetadata, bool] | None:
    """Return what a file says of how it was made, and whether that had to be put together from its name and size.

    Returns None for a file whose first bytes are not those of its kind, or that cannot be read.
    """
    try:
        size = _size(found)
        if size is None:
            return None
        metadata = _video_metadata(found.path) if format_of(found.filename) == "mp4" else read_metadata(found.path)
    except (OSError, MoldError):
        return None
    return (metadata, False) if metadata else (_synthetic(found, *size), True)


def _video_metadata(path: Path) -> OutputMetadata | None:
    from mold_core.media.video import read_video_metadata

    try:
        with open_result(path) as file:
            return read_video_metadata(file)
    except OutputError:  # PyAV is not installed
        return None


def _size(found: Found) -> tuple[int, int] | None:
    """Return width and height from a file's header; None if the header is not one."""
    with open_result(found.path) as file:
        head = file.read(_HEAD_BYTES)
        format = format_of(found.filename)
        if format == "mp4":
            return _video_size(file) if head[4:8] == b"ftyp" else None
        if format == "gif":
            return (int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")) if is_gif(head) else None
        if image_format(head) is None:
            return None
        return _picture_size(file)


def _video_size(file: BinaryIO) -> tuple[int, int]:
    from mold_core.media.video import probe_video

    file.seek(0)
    try:
        video = probe_video(file)
    except OutputError:  # PyAV is not installed
        return 0, 0
    return video.width, video.height


def _picture_size(file: BinaryIO) -> tuple[int, int] | None:
    # Importing a plugin registers it; left alone, Pillow would import all of its 40 to find WebP.
    from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401

    file.seek(0)
    try:
        # Only the header is read, so pictures of any size are harmless here.
        with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as picture:
            return picture.size
    except Exception:  # hostile bytes make Pillow raise almost anything
        return None


def _synthetic(found: Found, width: int, height: int) -> OutputMetadata:
    made = _MADE_BY_MOLD.fullmatch(found.filename)
    return OutputMetadata(
        prompt="",
        model=made["model"] if made else "unknown",
        seed=0,
        steps=0,
        guidance=0.0,
        width=width,
        height=height,
        version=f"synthesized@{found.modified_ns // 10**9}",
    )
