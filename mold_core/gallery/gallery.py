"""The gallery: stores, lists, searches and deletes results."""

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
    """The results in one or more folders, indexed by a SQLite database.

        gallery = Gallery(Path("images"), Path("gallery.db"))
        entry = gallery.add(png, metadata)
        page = gallery.list(q="red house", limit=50)

    New results are saved in `directory`; results in the folders `also` are listed too. If two folders have a file with
    the same name, the first folder wins. All methods may be called from any thread, and several processes may use the
    same folders and database. A row is written after its file is complete and deleted before the file, so a crash
    leaves no row without a complete file. `cache` is the folder of thumbnails; default: `cache` beside the database.
    """

    def __init__(
        self, directory: Path, database: Path, *, also: Sequence[Path] = (), cache: Path | None = None
    ) -> None:
        """Open the gallery. Folders need not exist yet. Raises OutputError if the database cannot be used."""
        self.folders = tuple(dict.fromkeys(os.path.realpath(folder) for folder in (directory, *also)))
        self._database = Database(database)
        self._thumbnails = Thumbnails(cache if cache is not None else database.parent / "cache")
        self._reconciling = threading.Lock()

    @classmethod
    def of(cls, settings: Settings) -> Gallery | None:
        """Return the gallery that the settings describe, or None if results are not saved."""
        if settings.output_path is None:
            return None
        return cls(
            settings.output_path,
            settings.home / "gallery.db",
            also=tuple(Path(os.path.expanduser(folder)) for folder in settings.gallery_dirs or ()),
            cache=settings.home / "cache",
        )

    # --- adding and deleting -------------------------------------------------------------------------------------

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
        """Save a result, from its bytes or from a file to copy, and return its entry.

        The file is complete on disk before the row is written. Its name consists of the model, the time in milliseconds
        and `index`, the index in the batch. `metadata` overrides the metadata in the file; None reads it from the file.
        With `name` the file gets that name, and an existing file of that name with the same metadata or bytes is
        returned instead: an interrupted call can be repeated. Raises OutputError if the file or the row cannot be
        written.
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
        """Delete the row, the file and the thumbnails of a result. Returns False if there is no such result.

        It works on a full disk too. Raises OutputError if the database cannot be written at all.
        """
        check_name(name)
        try:
            return self._delete(name)
        except OutputError as error:
            if not is_full(error):
                raise
        with self._database.spare_space():
            try:
                return self._delete(name)
            except OutputError as error:
                if not is_full(error):
                    raise
            self._remove_file(name)  # frees space if the file is on the same disk as the database
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
            rows.start_deletion(connection, entry)
        Sync(self._database, self._thumbnails).finish_deletions()
        return True

    def update(self, name: str, *, favourite: bool | None = None, tags: Sequence[str] | None = None) -> Entry:
        """Set or clear the favourite mark, and replace the tags. None leaves a value unchanged.

        Raises ResultNotFoundError, or ValidationError for an empty or too long tag.
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

    # --- reading -------------------------------------------------------------------------------------------------

    def list(
        self,
        q: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        *,
        tag: str | None = None,
        favourite: bool | None = None,
    ) -> Page:
        """Return entries, newest first: all, or at most `limit` after `cursor`, the `next` of the previous page.

        `q` is a search text: every word must be the start of a word in the prompts, the model or the tags; words in
        double quotes must match exactly. Raises ValidationError for an invalid cursor or a limit below 1.
        """
        if limit is not None and limit < 1:
            raise ValidationError(f"limit must be at least 1, not {limit}", field="limit", value=limit)
        words = match_expression(q) if q and q.strip() else None
        if q and q.strip() and words is None:
            return Page(entries=())
        filters = rows.Filters(below=_key(cursor) if cursor else None, tag=tag, favourite=favourite, words=words)
        one_more = None if limit is None else limit + 1
        with self._database.read() as connection:
            found = [rows.newest(connection, folder, filters, one_more) for folder in self.folders if isdir(folder)]
        entries = sorted(chain.from_iterable(found), key=lambda entry: entry.key, reverse=True)
        if limit is None or len(entries) <= limit:
            return Page(entries=tuple(entries))
        return Page(entries=tuple(entries[:limit]), next=str(entries[limit - 1].key))

    def get(self, name: str) -> Entry:
        """Return the entry with a name. Raises ResultNotFoundError, or ValidationError for an invalid name."""
        check_name(name)
        with self._database.read() as connection:
            entry = rows.find(connection, self.folders, name)
        if entry is None:
            raise not_found(name)
        return entry

    def holding(self, data: bytes) -> Entry | None:
        """Return the newest entry whose file has exactly these bytes, or None. Only files of the same size are read."""
        with self._database.read() as connection:
            alike = [entry for folder in self.folders for entry in rows.of_size(connection, folder, len(data))]
        return next((entry for entry in alike if _bytes_of(entry) == data), None)

    def open(self, name: str) -> tuple[Entry, BinaryIO]:
        """Return an entry and its file opened for reading. Symbolic links are not followed. Raises as `get` does."""
        entry = self.get(name)
        return entry, open_result(entry.path)

    def children(self, name: str) -> tuple[Entry, ...]:
        """Return the entries derived from a result, newest first."""
        check_name(name)
        with self._database.read() as connection:
            return tuple(entry for folder in self.folders for entry in rows.children(connection, folder, name))

    def thumbnail(self, name: str) -> Thumbnail:
        """Return a small PNG of a result, created now if it does not exist yet. Raises as `get` does."""
        return self._thumbnails.thumbnail(self.get(name))

    def preview(self, name: str) -> bytes:
        """Return a GIF of a video or animation. Raises ResultNotFoundError for still images, and as `get` does."""
        return self._thumbnails.preview(self.get(name))

    # --- synchronizing with the folders --------------------------------------------------------------------------

    def reconcile(self) -> Changes:
        """Update the rows to match the folders. Returns the numbers of new, changed and removed files.

        The metadata of new and changed files is read. If a whole folder is missing, such as an unmounted disk, its rows
        are kept but not listed.
        """
        with self._reconciling:
            return Sync(self._database, self._thumbnails).run(self.folders)

    def skipped(self) -> tuple[Skipped, ...]:
        """Return the files that the last `reconcile` could not list, with the reasons, folder by folder."""
        with self._database.read() as connection:
            return tuple(file for folder in self.folders for file in rows.skipped(connection, folder).values())

    def warm(self, stop: threading.Event, limit: int | None = None) -> None:
        """Create missing thumbnails and previews of the newest `limit` entries, or of all, until `stop` is set."""
        for entry in self.list(limit=limit).entries:
            if stop.is_set():
                return
            with suppress(Exception):
                self._thumbnails.thumbnail(entry)
            if entry.format == "mp4":
                with suppress(Exception):
                    self._thumbnails.preview(entry)

    def close(self) -> None:
        """Close the connections to the database. The gallery stays usable and opens new ones."""
        self._database.close()

    def _is_here(self, name: str, data: bytes | Path, recorded: OutputMetadata | None) -> bool:
        path = Path(self.folders[0]) / name
        if not is_result(self.folders[0], name):
            return False
        if recorded is not None and read_metadata(path) == recorded:
            return True
        return path.read_bytes() == (data.read_bytes() if isinstance(data, Path) else data)

    def _added_again(self, name: str, recorded: OutputMetadata | None, parents: Sequence[Parent]) -> Entry:
        """Return the entry of a file that was added before, and write rows that a crash prevented."""
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
        return None  # deleted since its row was read


def _key(cursor: str) -> int:
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 19 or int(cursor) >= 2**63:
        raise ValidationError("cursor is not the next value of a page", field="cursor", value=cursor)
    return int(cursor)


def _checked_tags(tags: Sequence[str]) -> tuple[str, ...]:
    found: dict[str, str] = {}
    for tag in tags:
        plain = " ".join(tag.split())
        if not plain or len(plain) > _MAX_TAG_CHARACTERS or not plain.isprintable():
            raise ValidationError(
                f"a tag must have 1 to {_MAX_TAG_CHARACTERS} printable characters, not {tag[:40]!r}",
                field="tags",
                value=tag,
            )
        found.setdefault(plain.casefold(), plain)
    if len(found) > _MAX_TAGS:
        raise ValidationError(f"at most {_MAX_TAGS} tags, not {len(found)}", field="tags", value=len(found))
    return tuple(found.values())
