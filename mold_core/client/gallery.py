"""The gallery of a server, with the methods of `mold_core.gallery.Gallery`."""

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
    """The source of a result: another result, or a prompt before expansion."""

    relation: str = wire_field("How the result was derived from the source.")
    name: str = wire_field("Name of the other result, or the original prompt.")


@attrs.frozen(kw_only=True)
class RemoteEntry:
    """A result in the gallery of a server."""

    filename: str = wire_field("Name of the result.")
    metadata: OutputMetadata = wire_field("How it was generated.")
    timestamp: int = wire_field("Modification time of the file, in seconds since 1970.")
    format: str = wire_field("File format.", default="png")
    size_bytes: int = wire_field("Size of the file in bytes.", default=0)
    metadata_synthetic: bool = wire_field("True if the file contains no metadata.", default=False)
    favourite: bool = wire_field("Whether it is marked as a favourite.", default=False)
    tags: tuple[str, ...] = wire_field("Its tags.", default=())
    parents: tuple[RemoteParent, ...] = wire_field("What it was derived from.", default=())

    def to_json(self) -> dict[str, Any]:
        """Return the entry as the server sends it: false and empty values are omitted."""
        data: dict[str, Any] = to_json(self)
        return {name: value for name, value in data.items() if value not in (False, [], ())}


@attrs.frozen(kw_only=True)
class RemotePage:
    """A page of entries, newest first, and the cursor of the next page; None on the last page."""

    entries: tuple[RemoteEntry, ...]
    next: str | None = None


@attrs.frozen
class RemoteGallery:
    """The gallery of a server. Every method raises UnreachableError, and the errors of the server."""

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
        """Return entries, newest first: all, or at most `limit` after `cursor`; see `Gallery.list`."""
        filters = {"q": q, "limit": limit, "cursor": cursor, "tag": tag, "favourite": favourite and "true"}
        query = urlencode({name: value for name, value in filters.items() if value is not None})
        data, headers = self.connection.ask("GET", f"/api/gallery?{query}", headers={"Accept": "application/json"})
        found = self.connection.decoded(data)
        return RemotePage(entries=tuple(map(_entry, found)), next=headers["X-Next-Cursor"])

    def get(self, name: str) -> RemoteEntry:
        """Return the entry with a name. Raises ResultNotFoundError."""
        return _entry(self._about(name))

    def children(self, name: str) -> tuple[RemoteEntry, ...]:
        """Return the entries derived from a result, newest first."""
        return tuple(map(_entry, self._about(name).get("children", ())))

    def read(self, name: str) -> bytes:
        """Return the file of a result. Raises ResultNotFoundError."""
        data, _ = self.connection.ask("GET", _path("image", name))
        return data

    def url(self, name: str) -> str:
        """Return the URL of the file of a result."""
        return self.connection.address + _path("image", name)

    def update(self, name: str, *, favourite: bool | None = None, tags: Sequence[str] | None = None) -> RemoteEntry:
        """Set or clear the favourite mark, and replace the tags. None leaves a value unchanged."""
        body: dict[str, Any] = {} if favourite is None else {"favourite": favourite}
        if tags is not None:
            body["tags"] = [*tags]
        return _entry(self.connection.json("PUT", _path("marks", name), body))

    def delete(self, name: str) -> bool:
        """Delete a result. Raises ServerError if the server does not allow it."""
        self.connection.ask("DELETE", _path("image", name))
        return True

    def _about(self, name: str) -> Any:
        return self.connection.json("GET", _path("about", name))


def _entry(data: Any) -> RemoteEntry:
    return from_json(RemoteEntry, data)


def _path(route: str, name: str) -> str:
    return f"/api/gallery/{route}/{quote(name)}"
