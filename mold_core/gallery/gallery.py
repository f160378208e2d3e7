"""The gallery: every result with what it was made from, found again in milliseconds."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain
from os.path import isdir
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mold_core.disk import is_full
from mold_core.errors import OutputError, ResultNotFoundError, ValidationError
from mold_core.gallery import rows
from mold_core.gallery.database import Database
from mold_core.gallery.entry import Entry, Page, Parent
from mold_core.gallery.folder import Found, Skipped, Unusable, check_name, described, not_found, open_result
from mold_core.gallery.save import file_name, save
from mold_core.gallery.search import match_expression
from mold_core.gallery.sync import Changes, Sync, is_result
from mold_core.gallery.thumbnails import Thumbnail, Thumbnails
from mold_core.media.metadata import OutputMetadata, read_metadata
from mold_core.wire.generate import OutputFormat

if TYPE_CHECKING:
    from mold_core.settings import Settings

__all__ = ["Changes", "Gallery"]

log = logging.getLogger("mold.gallery")

_MAX_TAGS = 64
_MAX_TAG_CHARACTERS = 100


class Gallery:
    """The results in a folder, and in others beside it, with a SQLite file that knows them.

        gallery = Gallery(Path("images"), Path("gallery.db"))
        entry = gallery.add(png, metadata)
        page = gallery.list(q="red house", limit=50)

    New results go to `directory`; those in the folders `also` are shown with them. Where two folders have a file of the
    same name, the first one's is shown. All methods may be called from any thread, and several processes may use the
    same folder and database. A row is written after its file is complete and removed before the file is, so a crash
    leaves no row without its whole file. `cache` holds thumbnails; by default it is `cache` beside the database.
    """

    def __init__(
        self, directory: Path, database: Path, *, also: Sequence[Path] = (), cache: Path | None = None
    ) -> None:
        """Open the gallery; folders need not exist yet. Raises OutputError when the database cannot be used."""
        self.folders = tuple(dict.fromkeys(os.path.realpath(folder) for folder in (directory, *also)))
        self._database = Database(database)
        self._thumbnails = Thumbnails(cache if cache is not None else database.parent / "cache")
        self._reconciling = threading.Lock()

    @classmethod
    def of(cls, settings: Settings) -> Gallery | None:
        """Return the gallery that the settings describe; None where results are not kept."""
        if settings.output_path is None:
            return None
        return cls(
            settings.output_path,
            settings.home / "gallery.db",
            also=tuple(Path(os.path.expanduser(folder)) for folder in settings.gallery_dirs or ()),
            cache=settings.home / "cache",
        )

    # --- putting in and taking out -------------------------------------------------------------------------------

    def add(
        self,
        data: bytes | Path,
        metadata: OutputMetadata | None = None,
        *,
        format: OutputFormat = "png",
        index: int | None = None,
        parents: Sequence[Parent] = (),
        tags: Sequence[str] = (),
        name: str | None = None,
    ) -> Entry:
        """Keep a result, given as its bytes or as a file to copy, and return its entry.

        The file is complete on the disk before the row is written. It is named after the model, the time in
        milliseconds and `index`, its place in a batch. `metadata` may say more than the file does; None reads it from
        the file. With `name` the file gets that name, and a result that is there under it, of the same metadata or
        bytes, is the one that is returned: who was interrupted may add again. Raises OutputError when the file or the
        row cannot be written.
        """
        labels = _checked_tags(tags)
        recorded = metadata or read_metadata(data)
        if name is None:
            name = file_name(recorded.model if recorded else "unknown", time.time_ns() // 1_000_000, index, format)
        elif self._is_here(name, data, recorded):
            return self._added_again(name, recorded, parents)
        path = save(Path(self.folders[0]), name, _writer(data) if isinstance(data, Path) else data, self._is_taken)
        found = _found(path)
        try:
            about = (recorded, False) if recorded else described(found)
        except Unusable as error:
            os.unlink(path)
            raise OutputError(
                "the result is not a %s file: %s", format, str(error), field="format", value=format
            ) from error
        with self._database.write() as connection:
            key = rows.insert(connection, found, *about)
            rows.set_parents(connection, key, parents)
            rows.replace_labels(connection, key, labels)
        return self.get(path.name)

    def delete(self, name: str) -> bool:
        """Remove a result: its row, its file, its thumbnails. Return False if there was none of that name.

        A full disk does not keep it from that. Raises OutputError where the database cannot be written at all.
        """
        check_name(name)
        try:
            return self._delete(name)
        except OutputError as error:
            if not is_full(error):
                raise
        with self._database.room():
            try:
                return self._delete(name)
            except OutputError as error:
                if not is_full(error):
                    raise
            self._remove_file(name)  # which gives back room, if it lies on the same disk as the database
            return self._delete(name)

    def _remove_file(self, name: str) -> None:
        entry = self.get(name)
        with suppress(OSError):
            os.unlink(entry.path)
        self._thumbnails.forget(str(entry.folder), name)

    def _delete(self, name: str) -> bool:
        with self._database.write() as connection:
            entry = rows.find(connection, self.folders, name)
            if entry is None:
                return False
            rows.leave(connection, entry)
        Sync(self._database, self._thumbnails).finish_leaving()
        return True

    def update(self, name: str, *, favourite: bool | None = None, tags: Sequence[str] | None = None) -> Entry:
        """Make a result a favourite or not, give it these tags and no others; None leaves a thing as it is.

        Raises ResultNotFoundError, or ValidationError for a tag that is empty or too long.
        """
        check_name(name)
        labels = None if tags is None else _checked_tags(tags)
        with self._database.write() as connection:
            entry = rows.find(connection, self.folders, name)
            if entry is None:
                raise not_found(name)
            if favourite is not None:
                rows.mark(connection, entry.key, favourite=favourite)
            if labels is not None:
                rows.replace_labels(connection, entry.key, labels)
        return self.get(name)

    # --- looking -------------------------------------------------------------------------------------------------

    def list(
        self,
        q: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        *,
        tag: str | None = None,
        favourite: bool | None = None,
    ) -> Page:
        """Return entries, newest first: all, or at most `limit` of them after `cursor`, the `next` of a page before.

        `q` is what people type: every word must be the beginning of a word in the prompts, the model or the tags;
        words in double quotes must stand there as they are. Raises ValidationError for a cursor that is
        none and a limit below 1.
        """
        if limit is not None and limit < 1:
            raise ValidationError(f"limit must be at least 1, not {limit}", field="limit", value=limit)
        words = match_expression(q) if q and q.strip() else None
        if q and q.strip() and words is None:
            return Page(entries=())
        wanted = rows.Wanted(below=_key(cursor) if cursor else None, tag=tag, favourite=favourite, words=words)
        one_more = None if limit is None else limit + 1
        with self._database.read() as connection:
            found = [rows.newest(connection, folder, wanted, one_more) for folder in self.folders if isdir(folder)]
        entries = sorted(chain.from_iterable(found), key=lambda entry: entry.key, reverse=True)
        if limit is None or len(entries) <= limit:
            return Page(entries=tuple(entries))
        return Page(entries=tuple(entries[:limit]), next=str(entries[limit - 1].key))

    def get(self, name: str) -> Entry:
        """Return the entry of that name. Raises ResultNotFoundError, or ValidationError for what is no plain name."""
        check_name(name)
        with self._database.read() as connection:
            entry = rows.find(connection, self.folders, name)
        if entry is None:
            raise not_found(name)
        return entry

    def holding(self, data: bytes) -> Entry | None:
        """Return the newest entry whose file has exactly these bytes, or None; files of another size are not read."""
        with self._database.read() as connection:
            alike = [entry for folder in self.folders for entry in rows.of_size(connection, folder, len(data))]
        return next((entry for entry in alike if _bytes_of(entry) == data), None)

    def open(self, name: str) -> tuple[Entry, BinaryIO]:
        """Return an entry and its file, opened for reading; symbolic links are not followed. Raises as `get` does."""
        entry = self.get(name)
        return entry, open_result(entry.path)

    def children(self, name: str) -> tuple[Entry, ...]:
        """Return the entries that have the one of that name as a parent, newest first."""
        check_name(name)
        with self._database.read() as connection:
            return tuple(entry for folder in self.folders for entry in rows.made_from(connection, folder, name))

    def thumbnail(self, name: str) -> Thumbnail:
        """Return a small PNG of a result, made now if there is none yet. Raises as `get` does."""
        return self._thumbnails.thumbnail(self.get(name))

    def preview(self, name: str) -> bytes:
        """Return a GIF of a result that moves. Raises ResultNotFoundError for a still image, else as `get` does."""
        return self._thumbnails.preview(self.get(name))

    # --- keeping in step with the folders ------------------------------------------------------------------------

    def reconcile(self) -> Changes:
        """Make the rows say what the folders hold: new, changed and vanished files. Return how many there were.

        New files are read for their metadata, changed ones again. A folder that is missing as a whole, such as a disk
        that is not plugged in, keeps its rows; they are not listed meanwhile.
        """
        with self._reconciling:
            return Sync(self._database, self._thumbnails).run(self.folders)

    def skipped(self) -> tuple[Skipped, ...]:
        """Return the files that the last `reconcile` could not show, and why, folder by folder."""
        with self._database.read() as connection:
            return tuple(file for folder in self.folders for file in rows.skipped(connection, folder).values())

    def warm(self, stop: threading.Event, limit: int | None = None) -> None:
        """Make the missing thumbnails and previews of the newest `limit` entries, or of all, until `stop` is set."""
        for entry in self.list(limit=limit).entries:
            if stop.is_set():
                return
            with suppress(Exception):
                self._thumbnails.thumbnail(entry)
            if entry.format == "mp4":
                with suppress(Exception):
                    self._thumbnails.preview(entry)

    def close(self) -> None:
        """Close the database's connections; the gallery may still be used and opens new ones."""
        self._database.close()

    def _is_here(self, name: str, data: bytes | Path, recorded: OutputMetadata | None) -> bool:
        path = Path(self.folders[0]) / name
        if not is_result(self.folders[0], name):
            return False
        if recorded is not None and read_metadata(path) == recorded:
            return True
        return path.read_bytes() == (data.read_bytes() if isinstance(data, Path) else data)

    def _added_again(self, name: str, recorded: OutputMetadata | None, parents: Sequence[Parent]) -> Entry:
        """Return the entry of a file that was added before, and write of its row what a crash prevented."""
        found = _found(Path(self.folders[0]) / name)
        with suppress(Unusable):
            about = (recorded, False) if recorded else described(found)
            with self._database.write() as connection:
                rows.insert_if_new(connection, found, *about)
                entry = rows.find(connection, self.folders[:1], name)
                if entry is not None and not entry.parents:
                    rows.set_parents(connection, entry.key, parents)
        return self.get(name)

    def _is_taken(self, name: str) -> bool:
        return any(os.path.lexists(os.path.join(folder, name)) for folder in self.folders[1:])


def _writer(source: Path) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        with source.open("rb") as original:
            shutil.copyfileobj(original, file, 1 << 20)

    return write


def _found(path: Path) -> Found:
    status = os.lstat(path)
    return Found(folder=str(path.parent), filename=path.name, modified_ns=status.st_mtime_ns, size_bytes=status.st_size)


def _bytes_of(entry: Entry) -> bytes | None:
    try:
        with open_result(entry.path) as file:
            return file.read()
    except (OSError, ResultNotFoundError):
        return None  # gone since its row was read


def _key(cursor: str) -> int:
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 19 or int(cursor) >= 2**63:
        raise ValidationError("cursor is none that a page gave", field="cursor", value=cursor)
    return int(cursor)


def _checked_tags(tags: Sequence[str]) -> tuple[str, ...]:
    found: dict[str, str] = {}
    for tag in tags:
        plain = " ".join(tag.split())
        if not plain or len(plain) > _MAX_TAG_CHARACTERS or not plain.isprintable():
            raise ValidationError(
                f"a tag has 1 to {_MAX_TAG_CHARACTERS} characters that can be seen, not {tag[:40]!r}",
                field="tags",
                value=tag,
            )
        found.setdefault(plain.casefold(), plain)
    if len(found) > _MAX_TAGS:
        raise ValidationError(f"at most {_MAX_TAGS} tags, not {len(found)}", field="tags", value=len(found))
    return tuple(found.values())
