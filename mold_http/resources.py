"""Resource usage of the machine: memory, processors, GPUs; sampled at most once a second."""

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

    total: int = wire_field("Total memory in bytes.")
    used: int = wire_field("Used memory in bytes.")
    used_by_mold: int = wire_field("Bytes used by the server and its workers.")
    used_by_other: int = wire_field("Bytes used by other processes.")


@attrs.frozen(kw_only=True)
class CpuUsage:
    """Processors."""

    cores: int = wire_field("Number of cores.")
    usage_percent: float = wire_field("Usage of all cores since the last sample, in percent.")


@attrs.frozen(kw_only=True)
class GpuUsage:
    """A GPU. Memory is in bytes."""

    ordinal: int = wire_field("Ordinal of the GPU, from 0.")
    name: str = wire_field("Name of the GPU.")
    backend: str = wire_field("Compute backend.", choices=("cuda", "metal"))
    vram_total: int = wire_field("Total memory in bytes.")
    vram_used: int = wire_field("Bytes used by all processes.")
    vram_used_by_mold: int | None = wire_field("Bytes used by mold, if known.")
    vram_used_by_other: int | None = wire_field("Bytes used by other processes, if known.")
    gpu_utilization: float | None = wire_field("Utilization in percent, 0 to 100, if known.")


@attrs.frozen(kw_only=True)
class ResourceSnapshot:
    """Resource usage at one moment."""

    hostname: str = wire_field("Name of the machine.")
    timestamp: int = wire_field("Time of the sample, in milliseconds since 1970.")
    gpus: tuple[GpuUsage, ...] = wire_field("GPUs.")
    system_ram: MemoryUsage = wire_field("Main memory.")
    cpu: CpuUsage | None = wire_field("Processors.")


class Resources:
    """Samples the machine on request, at most once a second."""

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

        memory, mold_bytes = psutil.virtual_memory(), _mold_bytes()
        return ResourceSnapshot(
            hostname=socket.gethostname(),
            timestamp=int(time.time() * 1000),
            gpus=tuple(gpu_usage(device) for device in self._engine.devices() if device.device != "cpu"),
            system_ram=MemoryUsage(
                total=memory.total,
                used=memory.used,
                used_by_mold=mold_bytes,
                used_by_other=max(memory.used - mold_bytes, 0),
            ),
            cpu=CpuUsage(cores=psutil.cpu_count() or 1, usage_percent=psutil.cpu_percent()),
        )


def gpu_usage(device: Any) -> GpuUsage:
    """Return the usage of a GPU of the engine."""
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


def _mold_bytes() -> int:
    """Return the memory of this process and its child processes, in bytes."""
    import psutil

    server = psutil.Process()
    total = 0
    for process in (server, *server.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue  # it has just ended
    return total


class ResourceSource(Source):
    """A ``snapshot`` event now, and then every second."""

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
