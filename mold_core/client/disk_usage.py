"""The disk of a server: models, LoRAs, disk usage, stored chains."""

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
    """The disk of a server, with the methods of `mold_core.engine.disk_usage.DiskInventory`."""

    connection: Connection

    def model(self, name: str) -> ModelDetails:
        """Return the details of a model on the server. Raises UnknownModelError."""
        return from_json(ModelDetails, self.connection.json("GET", f"/api/models/details?{urlencode({'model': name})}"))

    def loras(self) -> tuple[LoraFile, ...]:
        """Return the LoRAs of the server that can be used by name."""
        return tuple(from_json(LoraFile, item) for item in self.connection.json("GET", "/api/loras"))

    def plan_removal(self, name: str) -> Removal:
        """Return what `remove` would delete. Raises as it does."""
        return self._remove(name, dry_run=True)

    def remove(self, name: str) -> Removal:
        """Delete the files of a model on the server, except those that other models need."""
        return self._remove(name, dry_run=False)

    def usage(self) -> DiskUsage:
        """Return the disk usage of the server in bytes."""
        return from_json(DiskUsage, self.connection.json("GET", "/api/disk"))

    def chains(self) -> tuple[ChainDetails, ...]:
        """Return the stored chains of the server, newest first."""
        return tuple(from_json(ChainDetails, item) for item in self.connection.json("GET", "/api/chains"))

    def chain(self, id: str) -> ChainRequest:
        """Return the request of a stored chain. Run again on the server, it continues after its last complete clip."""
        return from_json(ChainRequest, self.connection.json("GET", f"/api/chains/{quote(id, safe='')}"))

    def _remove(self, name: str, *, dry_run: bool) -> Removal:
        body = {"model": name, "dry_run": dry_run}
        return from_json(Removal, self.connection.json("DELETE", "/api/models/files", body, timeout_s=None))
