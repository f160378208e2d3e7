"""An entry of the gallery: one result with its metadata, tags and parents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import attrs

from mold_core.media.formats import CONTENT_TYPES
from mold_core.media.metadata import OutputMetadata
from mold_core.wire.convert import to_json
from mold_core.wire.generate import OutputFormat

__all__ = ["RELATIONS", "Entry", "Page", "Parent", "Relation", "format_of"]

Relation = Literal["upscaled-from", "expanded-from", "made-from", "stage-of"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)

_FORMATS: Mapping[str, OutputFormat] = MappingProxyType(
    {
        ".png": "png",
        ".apng": "apng",
        ".jpg": "jpeg",
        ".jpeg": "jpeg",
        ".webp": "webp",
        ".gif": "gif",
        ".mp4": "mp4",
    }
)


def format_of(name: str) -> OutputFormat | None:
    """Return the format for the extension of a file name, or None if it is not that of a result."""
    return _FORMATS.get(Path(name).suffix.lower())


@attrs.frozen(kw_only=True)
class Parent:
    """The source of a result: the name of another result, or for ``expanded-from`` the original prompt."""

    relation: Relation
    name: str


@attrs.frozen(kw_only=True)
class Entry:
    """One result: its file, its metadata, and the marks that users gave it.

    `timestamp` is the modification time of the file in seconds since 1970. `metadata_synthetic` is True if the file has
    no metadata, so that `metadata` is derived from its name and size. `key` orders entries; the newest has the highest.
    """

    key: int
    filename: str
    folder: Path
    metadata: OutputMetadata
    timestamp: int
    format: OutputFormat
    size_bytes: int
    metadata_synthetic: bool = False
    favourite: bool = False
    tags: tuple[str, ...] = ()
    parents: tuple[Parent, ...] = ()

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.folder / self.filename

    @property
    def content_type(self) -> str:
        """Content type (MIME type) of the file's format."""
        return CONTENT_TYPES[self.format]

    def to_json(self) -> dict[str, Any]:
        """Return the entry as the HTTP API sends it. False and empty values are omitted."""
        data: dict[str, Any] = {
            "filename": self.filename,
            "metadata": to_json(self.metadata),
            "timestamp": self.timestamp,
            "format": self.format,
            "size_bytes": self.size_bytes,
        }
        if self.metadata_synthetic:
            data["metadata_synthetic"] = True
        if self.favourite:
            data["favourite"] = True
        if self.tags:
            data["tags"] = list(self.tags)
        if self.parents:
            data["parents"] = [attrs.asdict(parent) for parent in self.parents]
        return data


@attrs.frozen(kw_only=True)
class Page:
    """A page of entries, newest first, and the cursor of the next page; None on the last page."""

    entries: tuple[Entry, ...]
    next: str | None = None
