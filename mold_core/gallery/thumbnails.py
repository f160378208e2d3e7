"""Small images of results, kept in a cache that may be deleted at any time."""

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

# A file that stands for its own thumbnail is sent up to this size, else a drawing.
_MAX_STAND_IN_BYTES = 16 * 1024 * 1024
_MOST_DAMAGED = 10_000

_PLACEHOLDER = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="256" height="144" viewBox="0 0 256 144">'
    b'<rect width="256" height="144" fill="#26262b"/><path d="M108 48v48l40-24z" fill="#d6d3cc"/></svg>'
)


@attrs.frozen(kw_only=True)
class Thumbnail:
    """A small image, or what stands for one that cannot be made: the file itself, or a drawing of a video.

    `stand_in` images should not be kept for long.
    """

    data: bytes
    content_type: str
    stand_in: bool = False


class Thumbnails:
    """Thumbnails (PNG, at most 256 pixels a side) and previews of videos (GIF), made when they are first asked for."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._damaged: OrderedDict[tuple[str, Path], tuple[int, MoldError]] = OrderedDict()

    def thumbnail(self, entry: Entry) -> Thumbnail:
        """Return the thumbnail of an entry. Raises ResultNotFoundError if its file is gone."""
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
        """Return a GIF of what moves. Raises ResultNotFoundError for a still image and what cannot be decoded."""
        return self._cached("previews", entry, _preview)

    def forget(self, folder: str, filename: str) -> None:
        """Remove what is cached of a file."""
        for kind in ("thumbnails", "previews"):
            with suppress(OSError):
                self._place(kind, Path(folder), filename).unlink()

    def _cached(self, kind: Literal["thumbnails", "previews"], entry: Entry, make: Callable[[Entry], bytes]) -> bytes:
        place = self._place(kind, entry.folder, entry.filename)
        with open_result(entry.path) as file:
            modified_ns = os.fstat(file.fileno()).st_mtime_ns
        with suppress(OSError):
            kept = place.stat()
            if kept.st_mtime_ns == modified_ns and kept.st_size:
                return place.read_bytes()
        self._refuse_damaged(kind, entry.path, modified_ns)
        try:
            data = make(entry)
        except DecodersBusyError:
            raise
        except (ValidationError, ResultNotFoundError) as error:
            self._remember_damaged(kind, entry.path, modified_ns, error)
            raise
        with suppress(OSError):  # a disk that is full costs time only
            _put(place, data, modified_ns)
        return data

    def _refuse_damaged(self, kind: str, path: Path, modified_ns: int) -> None:
        """Raise again what was wrong with a file that has not changed since: finding out may take seconds."""
        with self._lock:
            known_ns, error = self._damaged.get((kind, path), (0, None))
        if error is not None and known_ns == modified_ns:
            raise copy(error)

    def _remember_damaged(self, kind: str, path: Path, modified_ns: int, error: MoldError) -> None:
        with self._lock:
            self._damaged[kind, path] = (modified_ns, copy(error))  # without the frames that it came from
            if len(self._damaged) > _MOST_DAMAGED:
                self._damaged.popitem(last=False)

    def _place(self, kind: str, folder: Path, filename: str) -> Path:
        suffix = ".png" if kind == "thumbnails" else ".preview.gif"
        return self._cache / kind / hashlib.sha256(os.fsencode(folder)).hexdigest()[:12] / f"{filename}{suffix}"


def _put(place: Path, data: bytes, modified_ns: int) -> None:
    """Write a cached file with its source's time, which says what it is of. Nothing is flushed: it is only a cache."""
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.parent / f".{secrets.token_hex(8)}.part"
    try:
        part.write_bytes(data)
        os.utime(part, ns=(modified_ns, modified_ns))
        os.replace(part, place)
    finally:
        with suppress(OSError):
            part.unlink()


def _thumbnail(entry: Entry) -> bytes:
    from mold_core.media.decoder import thumbnail

    return thumbnail(entry.path, entry.format)


def _preview(entry: Entry) -> bytes:
    from mold_core.media.decoder import preview

    try:
        made = preview(entry.path, entry.format, entry.metadata.fps)
    except DecodersBusyError:
        raise
    except (ValidationError, OutputError) as error:
        raise _still(entry) from error
    if made is None:
        raise _still(entry)
    return made


def _still(entry: Entry) -> ResultNotFoundError:
    return ResultNotFoundError(f"no preview: {entry.filename} does not move", field="filename", value=entry.filename)
