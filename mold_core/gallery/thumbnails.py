"""Small pictures of results, kept in a cache that may be deleted at any time."""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import attrs

from mold_core.errors import MoldError, ResultNotFoundError
from mold_core.gallery.entry import Entry
from mold_core.gallery.folder import open_result

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Thumbnail", "Thumbnails"]

LARGEST_SIDE = 256
# A preview shows the first eight seconds at eight frames a second, as far as the film goes.
PREVIEW_FPS = 8
PREVIEW_FRAMES = 64
_MAX_PIXELS = 32_000_000
# PERF: unpacked pictures are large; two at a time keep two cores busy.
_AT_ONCE = 2

_PLACEHOLDER = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="256" height="144" viewBox="0 0 256 144">'
    b'<rect width="256" height="144" fill="#26262b"/><path d="M108 48v48l40-24z" fill="#d6d3cc"/></svg>'
)


@attrs.frozen(kw_only=True)
class Thumbnail:
    """A small picture, or what stands for one that cannot be made: the file itself, or a drawing of a film.

    `stand_in` pictures should not be kept for long.
    """

    data: bytes
    content_type: str
    stand_in: bool = False


class Thumbnails:
    """Thumbnails (PNG, at most 256 pixels a side) and previews of films (GIF), made when they are first asked for."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._making = threading.Semaphore(_AT_ONCE)

    def thumbnail(self, entry: Entry) -> Thumbnail:
        """Return the thumbnail of an entry. Raises ResultNotFoundError if its file is gone."""
        try:
            return Thumbnail(data=self._cached("thumbnails", entry, _thumbnail), content_type="image/png")
        except (MoldError, MemoryError):
            with open_result(entry.path) as file:
                if entry.format == "mp4":
                    return Thumbnail(data=_PLACEHOLDER, content_type="image/svg+xml", stand_in=True)
                return Thumbnail(data=file.read(), content_type=entry.content_type, stand_in=True)

    def preview(self, entry: Entry) -> bytes:
        """Return a GIF of what moves. Raises ResultNotFoundError for a still picture and what cannot be decoded."""
        try:
            return self._cached("previews", entry, _preview)
        except MemoryError as error:
            raise _still(entry) from error

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
        with self._making:
            data = make(entry)
        with suppress(OSError):  # a disk that is full costs time only
            _put(place, data, modified_ns)
        return data

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
    from mold_core.media.images import decode_image, encode_image

    if entry.format in ("png", "apng", "jpeg", "webp"):
        with open_result(entry.path) as file:
            image = decode_image(file.read(), max_pixels=_MAX_PIXELS)
    else:
        first = next(_moving(entry), None)
        if first is None:
            raise _still(entry)
        image = first
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return encode_image(image, "png")


def _preview(entry: Entry) -> bytes:
    frames = []
    for image in _moving(entry):
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        frames.append(image)
    if len(frames) < 2:
        raise _still(entry)
    buffer = BytesIO()
    frames[0].save(
        buffer, format="GIF", save_all=True, append_images=frames[1:], duration=round(1000 / PREVIEW_FPS), loop=0
    )
    return buffer.getvalue()


def _still(entry: Entry) -> ResultNotFoundError:
    return ResultNotFoundError(f"no preview: {entry.filename} does not move", field="filename", value=entry.filename)


def _moving(entry: Entry) -> Iterator[Image]:
    """Yield frames for a preview as RGB images. Raises ResultNotFoundError where there are none."""
    with open_result(entry.path) as file:
        data = BytesIO(file.read())
    every = max(1, round((entry.metadata.fps or 3 * PREVIEW_FPS) / PREVIEW_FPS))
    try:
        yield from islice(_frames(entry, data), 0, PREVIEW_FRAMES * every, every)
    except Exception as error:  # hostile bytes make decoders raise almost anything
        raise _still(entry) from error


def _frames(entry: Entry, data: BytesIO) -> Iterator[Image]:
    if entry.format == "mp4":
        from mold_core.media.video import decode_frames

        yield from decode_frames(data, max_pixels=_MAX_PIXELS)
        return
    from PIL import GifImagePlugin, Image, ImageSequence, PngImagePlugin, WebPImagePlugin  # noqa: F401

    with Image.open(data, formats=("GIF", "PNG", "WEBP")) as film:
        if film.width * film.height > _MAX_PIXELS:
            raise _still(entry)
        for frame in ImageSequence.Iterator(film):
            yield frame.convert("RGB")
