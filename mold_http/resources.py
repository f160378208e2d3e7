"""What the machine has and uses: memory, processors, GPUs; sampled once a second at most."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import attrs

from mold_core.engine import Engine
from mold_core.wire.fields import wire_field
from mold_http.responses import json_of
from mold_http.sse import Feed, Feeds, Source, frame

__all__ = ["CpuUsage", "GpuUsage", "MemoryUsage", "ResourceSnapshot", "ResourceSource", "Resources"]

_FRESH_S = 0.9


@attrs.frozen(kw_only=True)
class MemoryUsage:
    """Memory of the machine, in bytes."""

    total: int = wire_field("All there is.")
    used: int = wire_field("In use.")
    used_by_mold: int = wire_field("In use by the server and its workers.")
    used_by_other: int = wire_field("In use by all others.")


@attrs.frozen(kw_only=True)
class CpuUsage:
    """Processors."""

    cores: int = wire_field("How many.")
    usage_percent: float = wire_field("How busy they were since the last sample, all together.")


@attrs.frozen(kw_only=True)
class GpuUsage:
    """A GPU. Memory is in bytes."""

    ordinal: int = wire_field("Its number.")
    name: str = wire_field("Its name.")
    backend: str = wire_field("How it is used.", choices=("cuda", "metal"))
    vram_total: int = wire_field("Its memory.")
    vram_used: int = wire_field("In use, by whomever.")
    vram_used_by_mold: int | None = wire_field("In use by mold, where known.")
    vram_used_by_other: int | None = wire_field("In use by others, where known.")
    gpu_utilization: float | None = wire_field("How busy it is in percent, where known.")


@attrs.frozen(kw_only=True)
class ResourceSnapshot:
    """The machine at one moment."""

    hostname: str = wire_field("Its name.")
    timestamp: int = wire_field("The moment, in milliseconds since 1970.")
    gpus: tuple[GpuUsage, ...] = wire_field("Its GPUs.")
    system_ram: MemoryUsage = wire_field("Its memory.")
    cpu: CpuUsage | None = wire_field("Its processors.")


class Resources:
    """Samples the machine when somebody asks, but no more than once a second."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = asyncio.Lock()
        self._latest: ResourceSnapshot | None = None
        self._taken_at = 0.0

    async def latest(self) -> ResourceSnapshot:
        """Return a snapshot that is less than a second old."""
        async with self._lock:
            if self._latest is None or time.monotonic() - self._taken_at > _FRESH_S:
                self._latest = await asyncio.to_thread(self._sample)
                self._taken_at = time.monotonic()
            return self._latest

    def _sample(self) -> ResourceSnapshot:
        import psutil

        memory, own = psutil.virtual_memory(), _own_bytes()
        return ResourceSnapshot(
            hostname=socket.gethostname(),
            timestamp=int(time.time() * 1000),
            gpus=tuple(gpu_usage(device) for device in self._engine.devices() if device.device != "cpu"),
            system_ram=MemoryUsage(
                total=memory.total,
                used=memory.used,
                used_by_mold=own,
                used_by_other=max(memory.used - own, 0),
            ),
            cpu=CpuUsage(cores=psutil.cpu_count() or 1, usage_percent=psutil.cpu_percent()),
        )


def gpu_usage(device: Any) -> GpuUsage:
    """Return how a GPU of the engine is used."""
    kind, _, ordinal = device.device.partition(":")
    return GpuUsage(
        ordinal=int(ordinal or 0),
        name=device.name,
        backend="metal" if kind == "mps" else "cuda",
        vram_total=device.memory_total_bytes,
        vram_used=device.memory_used_bytes,
        vram_used_by_mold=None,
        vram_used_by_other=None,
        gpu_utilization=None,
    )


def _own_bytes() -> int:
    """Return the memory of this process and those it started."""
    import psutil

    own = psutil.Process()
    total = 0
    for process in (own, *own.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue  # it has just ended
    return total


class ResourceSource(Source):
    """An event ``snapshot`` now and then every second."""

    interval_s = 1.0

    def __init__(self, resources: Resources, feeds: Feeds) -> None:
        super().__init__(Feed(feeds))
        self._resources = resources
        self._sent: ResourceSnapshot | None = None

    async def read(self) -> list[bytes]:
        """Return a snapshot, unless it was sent already."""
        snapshot = await self._resources.latest()
        if snapshot is self._sent:
            return []
        self._sent = snapshot
        return [frame("snapshot", json_of(snapshot))]
