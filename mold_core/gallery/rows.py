"""Rows of the gallery's tables, written and read inside a transaction that the caller holds."""

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
    "Wanted", "delete", "find", "insert", "insert_if_new", "known", "leave", "leaving", "left", "made_from", "mark",
    "newest", "of_size", "replace_labels", "replace_skipped", "set_parents", "skipped",
]  # fmt: skip

_KEYS_PER_MS = 1_000_000
_LARGEST_KEY = 2**63 - 1


@attrs.frozen(kw_only=True)
class Wanted:
    """Which entries: those below a key, those with a tag, favourites or not, those that an FTS5 expression matches."""

    below: int | None = None
    tag: str | None = None
    favourite: bool | None = None
    words: str | None = None


def insert(connection: sqlite3.Connection, found: Found, metadata: OutputMetadata, synthetic: bool) -> int:
    """Write the row of a file, in the place of what was known of it before; return its key."""
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
        places = ", ".join(f":{name}" for name in values)
        connection.execute(f"INSERT INTO entries ({names}) VALUES ({places})", values)
    else:
        changes = ", ".join(f"{name} = :{name}" for name in values)
        connection.execute(f"UPDATE entries SET {changes} WHERE key = :old", {**values, "old": old["key"]})
    return int(values["key"])


def insert_if_new(connection: sqlite3.Connection, found: Found, metadata: OutputMetadata, synthetic: bool) -> bool:
    """Write the row of a file unless there is one of it as it is now, or the file is leaving; return whether."""
    if (found.folder, found.filename, found.modified_ns) in {
        (gone.folder, gone.filename, gone.modified_ns) for gone in leaving(connection)
    }:
        return False
    old = _row_of(connection, found.folder, found.filename)
    if old is not None and (old["modified_ns"], old["size_bytes"]) == (found.modified_ns, found.size_bytes):
        return False
    insert(connection, found, metadata, synthetic)
    return True


def leave(connection: sqlite3.Connection, entry: Entry) -> None:
    """Remove an entry's row, and note that its file is to be removed."""
    (modified_ns,) = connection.execute("SELECT modified_ns FROM entries WHERE key = ?", (entry.key,)).fetchone()
    delete(connection, entry.key)
    connection.execute(
        "INSERT OR REPLACE INTO leaving (folder, filename, modified_ns) VALUES (?, ?, ?)",
        (str(entry.folder), entry.filename, modified_ns),
    )


def leaving(connection: sqlite3.Connection) -> list[Found]:
    """Return the files that are to be removed."""
    rows = connection.execute("SELECT folder, filename, modified_ns FROM leaving")
    return [Found(size_bytes=0, **row) for row in rows]


def left(connection: sqlite3.Connection, files: Iterable[Found]) -> None:
    """Note that files were removed."""
    connection.executemany(
        "DELETE FROM leaving WHERE folder = ? AND filename = ? AND modified_ns = ?",
        [(found.folder, found.filename, found.modified_ns) for found in files],
    )


def _free_key(connection: sqlite3.Connection, modified_ns: int) -> int:
    """Return the next key of the file's millisecond; there are a million."""
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
    """Remove a row with everything that hangs on it."""
    connection.execute("DELETE FROM entries WHERE key = ?", (key,))


def mark(connection: sqlite3.Connection, key: int, *, favourite: bool) -> None:
    """Make an entry a favourite, or no longer."""
    connection.execute("UPDATE entries SET favourite = ? WHERE key = ?", (favourite, key))


def replace_labels(connection: sqlite3.Connection, key: int, tags: Sequence[str]) -> None:
    """Give an entry these tags and no others."""
    connection.execute("DELETE FROM tags WHERE key = ?", (key,))
    connection.executemany("INSERT OR IGNORE INTO tags (tag, key) VALUES (?, ?)", [(tag, key) for tag in tags])
    connection.execute("UPDATE entries SET labels = ? WHERE key = ?", ("\n".join(tags), key))


def set_parents(connection: sqlite3.Connection, key: int, parents: Sequence[Parent]) -> None:
    """Say what an entry came from."""
    connection.execute("DELETE FROM parents WHERE key = ?", (key,))
    connection.executemany(
        "INSERT INTO parents (key, place, relation, name) VALUES (?, ?, ?, ?)",
        [(key, place, parent.relation, parent.name) for place, parent in enumerate(parents)],
    )


def known(connection: sqlite3.Connection, folder: str) -> dict[str, tuple[int, int, int]]:
    """Return key, time in ns and size of every file of a folder that has a row, by name."""
    rows = connection.execute("SELECT filename, key, modified_ns, size_bytes FROM entries WHERE folder = ?", (folder,))
    return {row["filename"]: (row["key"], row["modified_ns"], row["size_bytes"]) for row in rows}


def skipped(connection: sqlite3.Connection, folder: str) -> dict[str, Skipped]:
    """Return the files of a folder that are not shown, by name."""
    rows = connection.execute("SELECT name, seen, reason FROM skipped WHERE folder = ? ORDER BY name", (folder,))
    found = (Skipped(folder=folder, name=os.fsdecode(name), seen=seen, reason=reason) for name, seen, reason in rows)
    return {file.name: file for file in found}


def replace_skipped(connection: sqlite3.Connection, folder: str, files: Iterable[Skipped]) -> None:
    """Write down which files of a folder are not shown, these and no others."""
    connection.execute("DELETE FROM skipped WHERE folder = ?", (folder,))
    connection.executemany(
        "INSERT OR REPLACE INTO skipped (folder, name, seen, reason) VALUES (?, ?, ?, ?)",
        [(folder, os.fsencode(file.name), file.seen, file.reason) for file in files],
    )


def find(connection: sqlite3.Connection, folders: Iterable[str], filename: str) -> Entry | None:
    """Return the entry of that name in the first of the folders that has it."""
    for folder in folders:
        row = _row_of(connection, folder, filename)
        if row is not None:
            return _entries(connection, [row])[0]
    return None


def newest(connection: sqlite3.Connection, folder: str, wanted: Wanted, limit: int | None) -> list[Entry]:
    """Return the newest entries of a folder that are wanted, newest first."""
    source, order, conditions = "entries", "entries.key", ["entries.folder = :folder"]
    # PERF: with CROSS JOIN SQLite reads what is searched first and in order, and looks the entries up until it has
    # enough; left to itself it may sort every match.
    if wanted.words is not None:
        source, order = "words CROSS JOIN entries ON entries.key = words.rowid", "words.rowid"
        conditions.append("words MATCH :words")
    elif wanted.tag is not None:
        source, order = "tags CROSS JOIN entries ON entries.key = tags.key", "tags.key"
        conditions.append("tags.tag = :tag")
    if wanted.words is not None and wanted.tag is not None:
        conditions.append("EXISTS (SELECT 1 FROM tags WHERE tags.tag = :tag AND tags.key = entries.key)")
    if wanted.favourite is not None:
        conditions.append("entries.favourite" if wanted.favourite else "NOT entries.favourite")
    if wanted.below is not None:
        conditions.append(f"{order} < :below")
    rows = connection.execute(
        f"SELECT entries.* FROM {source} WHERE {' AND '.join(conditions)} ORDER BY {order} DESC LIMIT :limit",
        {"folder": folder, "limit": -1 if limit is None else limit, **attrs.asdict(wanted)},
    )
    return _entries(connection, rows.fetchall())


def made_from(connection: sqlite3.Connection, folder: str, name: str) -> list[Entry]:
    """Return the entries of a folder that have `name` as a parent, newest first."""
    rows = connection.execute(
        "SELECT DISTINCT entries.* FROM parents JOIN entries ON entries.key = parents.key "
        "WHERE parents.name = ? AND entries.folder = ? ORDER BY entries.key DESC",
        (name, folder),
    )
    return _entries(connection, rows.fetchall())


def of_size(connection: sqlite3.Connection, folder: str, size_bytes: int) -> list[Entry]:
    """Return the entries of a folder whose files have so many bytes, newest first."""
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
            # Written by to_json() above, so it needs no checking.
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
