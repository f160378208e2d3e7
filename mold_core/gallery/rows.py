"""Reads and writes rows of the gallery's tables, in a transaction of the caller."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import attrs

from mold_core.gallery.entry import Entry, Parent, Relation, format_of
from mold_core.gallery.folder import Found, Skipped
from mold_core.media.metadata import OutputMetadata
from mold_core.wire.generate import OutputFormat

__all__ = [
    "Filters", "children", "delete", "end_deletion", "find", "insert", "insert_if_new", "known", "mark", "newest",
    "of_size", "pending_deletions", "replace_labels", "replace_skipped", "set_parents", "skipped", "start_deletion",
]  # fmt: skip

_KEYS_PER_MS = 1_000_000
_LARGEST_KEY = 2**63 - 1


@attrs.frozen(kw_only=True)
class Filters:
    """Conditions on entries: a key below `below`, a tag, the favourite mark, an FTS5 expression. None: no condition."""

    below: int | None = None
    tag: str | None = None
    favourite: bool | None = None
    words: str | None = None


def insert(connection: sqlite3.Connection, found: Found, metadata: OutputMetadata, synthetic: bool) -> int:
    """Write or replace the row of a file, and return its key."""
    old = _row_of(connection, found.folder, found.filename)
    values: dict[str, Any] = {
        "key": _free_key(connection, found.modified_ns),
        "folder": found.folder,
        "filename": found.filename,
        "modified_ns": found.modified_ns,
        "size_bytes": found.size_bytes,
        "metadata": metadata.to_json(),
        "synthetic": synthetic,
        "prompts": "\n".join(filter(None, (metadata.prompt, metadata.original_prompt, metadata.negative_prompt))),
        "model": metadata.model,
    }
    if old is not None and old["modified_ns"] == found.modified_ns:
        values["key"] = old["key"]
    if old is None:
        names = ", ".join(values)
        placeholders = ", ".join(f":{name}" for name in values)
        connection.execute(f"INSERT INTO entries ({names}) VALUES ({placeholders})", values)
    else:
        changes = ", ".join(f"{name} = :{name}" for name in values)
        connection.execute(f"UPDATE entries SET {changes} WHERE key = :old", {**values, "old": old["key"]})
    return int(values["key"])


def insert_if_new(connection: sqlite3.Connection, found: Found, metadata: OutputMetadata, synthetic: bool) -> bool:
    """Write the row of a file unless it is up to date or the file is being deleted. Returns whether it was written."""
    if (found.folder, found.filename, found.modified_ns) in {
        (file.folder, file.filename, file.modified_ns) for file in pending_deletions(connection)
    }:
        return False
    old = _row_of(connection, found.folder, found.filename)
    if old is not None and (old["modified_ns"], old["size_bytes"]) == (found.modified_ns, found.size_bytes):
        return False
    insert(connection, found, metadata, synthetic)
    return True


def start_deletion(connection: sqlite3.Connection, entry: Entry) -> None:
    """Delete an entry's row, and record that its file must be deleted."""
    (modified_ns,) = connection.execute("SELECT modified_ns FROM entries WHERE key = ?", (entry.key,)).fetchone()
    delete(connection, entry.key)
    connection.execute(
        "INSERT OR REPLACE INTO leaving (folder, filename, modified_ns) VALUES (?, ?, ?)",
        (str(entry.folder), entry.filename, modified_ns),
    )


def pending_deletions(connection: sqlite3.Connection) -> list[Found]:
    """Return the files that must be deleted."""
    rows = connection.execute("SELECT folder, filename, modified_ns FROM leaving")
    return [Found(size_bytes=0, **row) for row in rows]


def end_deletion(connection: sqlite3.Connection, files: Iterable[Found]) -> None:
    """Record that files were deleted."""
    connection.executemany(
        "DELETE FROM leaving WHERE folder = ? AND filename = ? AND modified_ns = ?",
        [(found.folder, found.filename, found.modified_ns) for found in files],
    )


def _free_key(connection: sqlite3.Connection, modified_ns: int) -> int:
    """Return the next free key of the file's millisecond; there are a million per millisecond."""
    first = max(0, min(modified_ns // 1_000_000, _LARGEST_KEY // _KEYS_PER_MS - 1)) * _KEYS_PER_MS
    (last,) = connection.execute(
        "SELECT MAX(key) FROM entries WHERE key >= ? AND key < ?", (first, first + _KEYS_PER_MS)
    ).fetchone()
    return first if last is None else cast("int", last) + 1


def _row_of(connection: sqlite3.Connection, folder: str, filename: str) -> sqlite3.Row | None:
    return cast(
        "sqlite3.Row | None",
        connection.execute("SELECT * FROM entries WHERE folder = ? AND filename = ?", (folder, filename)).fetchone(),
    )


def delete(connection: sqlite3.Connection, key: int) -> None:
    """Delete a row with its tags and parents."""
    connection.execute("DELETE FROM entries WHERE key = ?", (key,))


def mark(connection: sqlite3.Connection, key: int, *, favourite: bool) -> None:
    """Set or clear the favourite mark of an entry."""
    connection.execute("UPDATE entries SET favourite = ? WHERE key = ?", (favourite, key))


def replace_labels(connection: sqlite3.Connection, key: int, tags: Sequence[str]) -> None:
    """Replace the tags of an entry."""
    connection.execute("DELETE FROM tags WHERE key = ?", (key,))
    connection.executemany("INSERT OR IGNORE INTO tags (tag, key) VALUES (?, ?)", [(tag, key) for tag in tags])
    connection.execute("UPDATE entries SET labels = ? WHERE key = ?", ("\n".join(tags), key))


def set_parents(connection: sqlite3.Connection, key: int, parents: Sequence[Parent]) -> None:
    """Replace the parents of an entry."""
    connection.execute("DELETE FROM parents WHERE key = ?", (key,))
    connection.executemany(
        "INSERT INTO parents (key, place, relation, name) VALUES (?, ?, ?, ?)",
        [(key, index, parent.relation, parent.name) for index, parent in enumerate(parents)],
    )


def known(connection: sqlite3.Connection, folder: str) -> dict[str, tuple[int, int, int]]:
    """Return (key, modification time in ns, size in bytes) of every file of a folder with a row, by name."""
    rows = connection.execute("SELECT filename, key, modified_ns, size_bytes FROM entries WHERE folder = ?", (folder,))
    return {row["filename"]: (row["key"], row["modified_ns"], row["size_bytes"]) for row in rows}


def skipped(connection: sqlite3.Connection, folder: str) -> dict[str, Skipped]:
    """Return the files of a folder that are not listed, by name."""
    rows = connection.execute("SELECT name, seen, reason FROM skipped WHERE folder = ? ORDER BY name", (folder,))
    found = (Skipped(folder=folder, name=os.fsdecode(name), seen=seen, reason=reason) for name, seen, reason in rows)
    return {file.name: file for file in found}


def replace_skipped(connection: sqlite3.Connection, folder: str, files: Iterable[Skipped]) -> None:
    """Replace the record of files of a folder that are not listed."""
    connection.execute("DELETE FROM skipped WHERE folder = ?", (folder,))
    connection.executemany(
        "INSERT OR REPLACE INTO skipped (folder, name, seen, reason) VALUES (?, ?, ?, ?)",
        [(folder, os.fsencode(file.name), file.seen, file.reason) for file in files],
    )


def find(connection: sqlite3.Connection, folders: Iterable[str], filename: str) -> Entry | None:
    """Return the entry with a name from the first folder that has it, or None."""
    for folder in folders:
        row = _row_of(connection, folder, filename)
        if row is not None:
            return _entries(connection, [row])[0]
    return None


def newest(connection: sqlite3.Connection, folder: str, filters: Filters, limit: int | None) -> list[Entry]:
    """Return the newest entries of a folder that match the filters, newest first."""
    source, order, conditions = "entries", "entries.key", ["entries.folder = :folder"]
    # PERF: with CROSS JOIN SQLite reads the search index first and in order, and looks up entries until it has enough.
    # Without it, SQLite may sort every match.
    if filters.words is not None:
        source, order = "words CROSS JOIN entries ON entries.key = words.rowid", "words.rowid"
        conditions.append("words MATCH :words")
    elif filters.tag is not None:
        source, order = "tags CROSS JOIN entries ON entries.key = tags.key", "tags.key"
        conditions.append("tags.tag = :tag")
    if filters.words is not None and filters.tag is not None:
        conditions.append("EXISTS (SELECT 1 FROM tags WHERE tags.tag = :tag AND tags.key = entries.key)")
    if filters.favourite is not None:
        conditions.append("entries.favourite" if filters.favourite else "NOT entries.favourite")
    if filters.below is not None:
        conditions.append(f"{order} < :below")
    rows = connection.execute(
        f"SELECT entries.* FROM {source} WHERE {' AND '.join(conditions)} ORDER BY {order} DESC LIMIT :limit",
        {"folder": folder, "limit": -1 if limit is None else limit, **attrs.asdict(filters)},
    )
    return _entries(connection, rows.fetchall())


def children(connection: sqlite3.Connection, folder: str, name: str) -> list[Entry]:
    """Return the entries of a folder that have `name` as a parent, newest first."""
    rows = connection.execute(
        "SELECT DISTINCT entries.* FROM parents JOIN entries ON entries.key = parents.key "
        "WHERE parents.name = ? AND entries.folder = ? ORDER BY entries.key DESC",
        (name, folder),
    )
    return _entries(connection, rows.fetchall())


def of_size(connection: sqlite3.Connection, folder: str, size_bytes: int) -> list[Entry]:
    """Return the entries of a folder whose files have a size, newest first."""
    rows = connection.execute(
        "SELECT * FROM entries WHERE folder = ? AND size_bytes = ? ORDER BY key DESC", (folder, size_bytes)
    )
    return _entries(connection, rows.fetchall())


def _entries(connection: sqlite3.Connection, rows: Sequence[sqlite3.Row]) -> list[Entry]:
    parents = _parents(connection, [row["key"] for row in rows])
    return [
        Entry(
            key=row["key"],
            filename=row["filename"],
            folder=Path(row["folder"]),
            # Written by to_json() above, so it needs no validation.
            metadata=OutputMetadata(**json.loads(row["metadata"])),
            timestamp=row["modified_ns"] // 10**9,
            format=cast("OutputFormat", format_of(row["filename"])),
            size_bytes=row["size_bytes"],
            metadata_synthetic=bool(row["synthetic"]),
            favourite=bool(row["favourite"]),
            tags=tuple(row["labels"].split("\n")) if row["labels"] else (),
            parents=parents.get(row["key"], ()),
        )
        for row in rows
    ]


def _parents(connection: sqlite3.Connection, keys: Sequence[int]) -> dict[int, tuple[Parent, ...]]:
    found: dict[int, tuple[Parent, ...]] = {}
    if not keys:
        return found
    rows = connection.execute(
        "SELECT key, relation, name FROM parents WHERE key IN (SELECT value FROM json_each(?)) ORDER BY key, place",
        (json.dumps(keys),),
    )
    for row in rows:
        parent = Parent(relation=cast("Relation", row["relation"]), name=row["name"])
        found[row["key"]] = (*found.get(row["key"], ()), parent)
    return found
