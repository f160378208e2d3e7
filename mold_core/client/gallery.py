"""The results that a server keeps, with the verbs of `mold_core.gallery.Gallery`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

import attrs

from mold_core.client.connection import Connection
from mold_core.media.metadata import OutputMetadata
from mold_core.wire.convert import from_json, to_json
from mold_core.wire.fields import wire_field

__all__ = ["RemoteEntry", "RemoteGallery", "RemotePage", "RemoteParent"]


@attrs.frozen(kw_only=True)
class RemoteParent:
    """What a result came from."""

    relation: str = wire_field("How it came from it.")
    name: str = wire_field("Name of another result, or the prompt as it was.")


@attrs.frozen(kw_only=True)
class RemoteEntry:
    """One result that a server keeps."""

    filename: str = wire_field("Its name.")
    metadata: OutputMetadata = wire_field("How it was made.")
    timestamp: int = wire_field("Time of the file, in seconds since 1970.")
    format: str = wire_field("File format.", default="png")
    size_bytes: int = wire_field("Size of the file.", default=0)
    metadata_synthetic: bool = wire_field("Whether the file itself tells nothing.", default=False)
    favourite: bool = wire_field("Whether somebody marked it.", default=False)
    tags: tuple[str, ...] = wire_field("Words that somebody gave it.", default=())
    parents: tuple[RemoteParent, ...] = wire_field("What it came from.", default=())

    def to_json(self) -> dict[str, Any]:
        """Return the entry as the server shows it; what is not so, or empty, is left out."""
        shown: dict[str, Any] = to_json(self)
        return {name: value for name, value in shown.items() if value not in (False, [], ())}


@attrs.frozen(kw_only=True)
class RemotePage:
    """Some entries, newest first, and the cursor of the page after them; None where there are no more."""

    entries: tuple[RemoteEntry, ...]
    next: str | None = None


@attrs.frozen
class RemoteGallery:
    """Results of a server. Every method raises UnreachableError, and the server's errors."""

    connection: Connection

    def list(
        self,
        q: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        *,
        tag: str | None = None,
        favourite: bool | None = None,
    ) -> RemotePage:
        """Return entries, newest first: all, or at most `limit` of them after `cursor`; see `Gallery.list`."""
        asked = {"q": q, "limit": limit, "cursor": cursor, "tag": tag, "favourite": favourite and "true"}
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        data, headers = self.connection.ask("GET", f"/api/gallery?{query}", headers={"Accept": "application/json"})
        found = self.connection.decoded(data)
        return RemotePage(entries=tuple(map(_entry, found)), next=headers["X-Next-Cursor"])

    def get(self, name: str) -> RemoteEntry:
        """Return the entry of that name. Raises ResultNotFoundError."""
        return _entry(self._about(name))

    def children(self, name: str) -> tuple[RemoteEntry, ...]:
        """Return the entries that have the one of that name as a parent, newest first."""
        return tuple(map(_entry, self._about(name).get("children", ())))

    def read(self, name: str) -> bytes:
        """Return the file of a result. Raises ResultNotFoundError."""
        data, _ = self.connection.ask("GET", _path("image", name))
        return data

    def url(self, name: str) -> str:
        """Return where the file of a result is."""
        return self.connection.address + _path("image", name)

    def update(self, name: str, *, favourite: bool | None = None, tags: Sequence[str] | None = None) -> RemoteEntry:
        """Make a result a favourite or not, give it these tags and no others; None leaves a thing as it is."""
        body: dict[str, Any] = {} if favourite is None else {"favourite": favourite}
        if tags is not None:
            body["tags"] = [*tags]
        return _entry(self.connection.json("PUT", _path("marks", name), body))

    def delete(self, name: str) -> bool:
        """Delete a result. Raises ServerError where that is not allowed."""
        self.connection.ask("DELETE", _path("image", name))
        return True

    def _about(self, name: str) -> Any:
        return self.connection.json("GET", _path("about", name))


def _entry(data: Any) -> RemoteEntry:
    return from_json(RemoteEntry, data)


def _path(what: str, name: str) -> str:
    return f"/api/gallery/{what}/{quote(name)}"
