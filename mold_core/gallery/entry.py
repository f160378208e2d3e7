"""What the gallery knows of one result."""

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
    """Return the format that a file's name announces, or None if it is no result."""
    return _FORMATS.get(Path(name).suffix.lower())


@attrs.frozen(kw_only=True)
class Parent:
    """What a result came from: the name of another result, or for ``expanded-from`` the prompt as it was."""

    relation: Relation
    name: str


@attrs.frozen(kw_only=True)
class Entry:
    """One result: its file, what it was made from, and what a person said of it.

    `timestamp` is the file's time in whole Unix seconds. `metadata_synthetic` says that the file tells nothing of how
    it was made and `metadata` was put together from its name and size. `key` orders entries, newest highest.
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
        """Where the file is."""
        return self.folder / self.filename

    @property
    def content_type(self) -> str:
        """The file's content type, from a fixed table."""
        return CONTENT_TYPES[self.format]

    def to_json(self) -> dict[str, Any]:
        """Return the entry as the HTTP API shows it; what is not so, or empty, is left out."""
        shown: dict[str, Any] = {
            "filename": self.filename,
            "metadata": to_json(self.metadata),
            "timestamp": self.timestamp,
            "format": self.format,
            "size_bytes": self.size_bytes,
        }
        if self.metadata_synthetic:
            shown["metadata_synthetic"] = True
        if self.favourite:
            shown["favourite"] = True
        if self.tags:
            shown["tags"] = list(self.tags)
        if self.parents:
            shown["parents"] = [attrs.asdict(parent) for parent in self.parents]
        return shown


@attrs.frozen(kw_only=True)
class Page:
    """Some entries, newest first, and the cursor of the page after them; None where there are no more."""

    entries: tuple[Entry, ...]
    next: str | None = None
