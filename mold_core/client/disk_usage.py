"""What lies on a server's disk, asked from here."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import attrs

from mold_core.catalog.details import ChainDetails, DiskUsage, LoraFile, ModelDetails, Removal
from mold_core.client.connection import Connection
from mold_core.wire import ChainRequest
from mold_core.wire.convert import from_json

__all__ = ["RemoteDiskInventory"]


@attrs.frozen
class RemoteDiskInventory:
    """Tells of a server's disk, and takes models off it; the verbs of `mold_core.engine.disk_usage.DiskInventory`."""

    connection: Connection

    def model(self, name: str) -> ModelDetails:
        """Return all that is known of a model there. Raises UnknownModelError."""
        return from_json(ModelDetails, self.connection.json("GET", f"/api/models/details?{urlencode({'model': name})}"))

    def loras(self) -> tuple[LoraFile, ...]:
        """Return the LoRAs that have names there."""
        return tuple(from_json(LoraFile, item) for item in self.connection.json("GET", "/api/loras"))

    def plan_removal(self, name: str) -> Removal:
        """Return what `remove` would do. Raises as it does."""
        return self._removed(name, dry_run=True)

    def remove(self, name: str) -> Removal:
        """Delete a model's files there, but for those that others need. Raises what the server raises."""
        return self._removed(name, dry_run=False)

    def usage(self) -> DiskUsage:
        """Return what takes room there, in bytes."""
        return from_json(DiskUsage, self.connection.json("GET", "/api/disk"))

    def chains(self) -> tuple[ChainDetails, ...]:
        """Return the chains that were begun there, the latest first."""
        return tuple(from_json(ChainDetails, item) for item in self.connection.json("GET", "/api/chains"))

    def chain(self, id: str) -> ChainRequest:
        """Return the request of a chain; made again there, it goes on after its last whole clip."""
        return from_json(ChainRequest, self.connection.json("GET", f"/api/chains/{quote(id, safe='')}"))

    def _removed(self, name: str, *, dry_run: bool) -> Removal:
        body = {"model": name, "dry_run": dry_run}
        return from_json(Removal, self.connection.json("DELETE", "/api/models/files", body, timeout_s=None))
