"""Thumbnails and previews of results, in a cache that may be deleted at any time."""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Literal

import attrs

from mold_core.errors import CancelledError, MoldError, OutputError, ResultNotFoundError, ValidationError
from mold_core.gallery.entry import Entry
from mold_core.gallery.folder import open_result
from mold_core.media.decoder import DecodersBusyError

__all__ = ["Thumbnail", "Thumbnails"]

# If no thumbnail can be created, the file itself is sent up to this size, else a placeholder.
_MAX_STAND_IN_BYTES = 16 * 1024 * 1024
_MOST_DAMAGED = 10_000

_PLACEHOLDER = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="256" height="144" viewBox="0 0 256 144">'
    b'<rect width="256" height="144" fill="#26262b"/><path d="M108 48v48l40-24z" fill="#d6d3cc"/></svg>'
)


@attrs.frozen(kw_only=True)
class Thumbnail:
    """A small image, or a substitute if none can be created: the file itself, or a placeholder (`stand_in`).

    Substitutes should be cached briefly only.
    """

    data: bytes
    content_type: str
    stand_in: bool = False


class Thumbnails:
    """Thumbnails (PNG, at most 256 pixels a side) and previews of videos (GIF), created on first use."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._damaged: OrderedDict[tuple[str, Path], tuple[int, MoldError]] = OrderedDict()

    def thumbnail(self, entry: Entry) -> Thumbnail:
        """Return the thumbnail of an entry. Raises ResultNotFoundError if its file does not exist."""
        try:
            return Thumbnail(data=self._cached("thumbnails", entry, _thumbnail), content_type="image/png")
        except CancelledError:
            raise
        except MoldError:
            with open_result(entry.path) as file:
                if entry.format == "mp4" or os.fstat(file.fileno()).st_size > _MAX_STAND_IN_BYTES:
                    return Thumbnail(data=_PLACEHOLDER, content_type="image/svg+xml", stand_in=True)
                return Thumbnail(data=file.read(), content_type=entry.content_type, stand_in=True)

    def preview(self, entry: Entry) -> bytes:
        """Return a GIF of a video or animation. Raises ResultNotFoundError for still images and damaged files."""
        return self._cached("previews", entry, _preview)

    def forget(self, folder: str, filename: str) -> None:
        """Delete the cached images of a file."""
        for kind in ("thumbnails", "previews"):
            with suppress(OSError):
                self._path(kind, Path(folder), filename).unlink()

    def _cached(self, kind: Literal["thumbnails", "previews"], entry: Entry, make: Callable[[Entry], bytes]) -> bytes:
        cached = self._path(kind, entry.folder, entry.filename)
        with open_result(entry.path) as file:
            modified_ns = os.fstat(file.fileno()).st_mtime_ns
        with suppress(OSError):
            status = cached.stat()
            if status.st_mtime_ns == modified_ns and status.st_size:
                return cached.read_bytes()
        self._refuse_damaged(kind, entry.path, modified_ns)
        try:
            data = make(entry)
        except DecodersBusyError:
            raise
        except (ValidationError, ResultNotFoundError) as error:
            self._remember_damaged(kind, entry.path, modified_ns, error)
            raise
        with suppress(OSError):  # on a full disk the image is created again next time
            _write(cached, data, modified_ns)
        return data

    def _refuse_damaged(self, kind: str, path: Path, modified_ns: int) -> None:
        """Raise the recorded error of a file that has not changed: decoding it again may take seconds."""
        with self._lock:
            known_ns, error = self._damaged.get((kind, path), (0, None))
        if error is not None and known_ns == modified_ns:
            raise copy(error)

    def _remember_damaged(self, kind: str, path: Path, modified_ns: int, error: MoldError) -> None:
        with self._lock:
            self._damaged[kind, path] = (modified_ns, copy(error))  # a copy has no traceback
            if len(self._damaged) > _MOST_DAMAGED:
                self._damaged.popitem(last=False)

    def _path(self, kind: str, folder: Path, filename: str) -> Path:
        suffix = ".png" if kind == "thumbnails" else ".preview.gif"
        return self._cache / kind / hashlib.sha256(os.fsencode(folder)).hexdigest()[:12] / f"{filename}{suffix}"


def _write(path: Path, data: bytes, modified_ns: int) -> None:
    """Write a cached file with the modification time of its source, to recognise changes. It is not flushed to disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        partial.write_bytes(data)
        os.utime(partial, ns=(modified_ns, modified_ns))
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink()


def _thumbnail(entry: Entry) -> bytes:
    from mold_core.media.decoder import thumbnail

    return thumbnail(entry.path, entry.format)


def _preview(entry: Entry) -> bytes:
    from mold_core.media.decoder import preview

    try:
        gif = preview(entry.path, entry.format, entry.metadata.fps)
    except DecodersBusyError:
        raise
    except (ValidationError, OutputError) as error:
        raise _still(entry) from error
    if gif is None:
        raise _still(entry)
    return gif


def _still(entry: Entry) -> ResultNotFoundError:
    return ResultNotFoundError(f"no preview: {entry.filename} is a still image", field="filename", value=entry.filename)
