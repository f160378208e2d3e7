"""Progress of loading: bytes read, and kernels being compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

import attrs

from mold_core.wire import StageDone, StageStart, WeightLoad

if TYPE_CHECKING:
    from torch import Tensor

    from mold_core.wire import ProgressEvent

__all__ = ["LoadProgress", "bring_into_memory"]

# A job stores its events: a component reports at most fifty, a small component one.
_MOST_EVENTS = 50
_FEWEST_BYTES = 64_000_000
_PAGE_BYTES = 4096


@attrs.define
class LoadProgress:
    """Reports WeightLoad events while a component is loaded.

    `size_bytes` is the size of the component, `before_bytes` the size of those loaded before it, of `total_bytes`.
    """

    report: Callable[[ProgressEvent], object]
    component: str
    size_bytes: int
    total_bytes: int
    before_bytes: int = 0
    _reported_bytes: int = attrs.field(default=0, init=False)

    def advance(self, done: int, total: int) -> None:
        """Report that `done` of `total` bytes of the file were read. `finish` reports the end."""
        loaded = self.size_bytes * done // max(total, 1)
        step = max(_FEWEST_BYTES, self.size_bytes // _MOST_EVENTS)
        if loaded - self._reported_bytes >= step and done < total:
            self._report(loaded)

    def finish(self) -> None:
        """Report that the component is loaded."""
        self._report(self.size_bytes)

    @contextmanager
    def compiling(self, what: str) -> Iterator[None]:
        """Report compiling as a stage during the block."""
        name, started = f"Compiling {what}, once on this machine", perf_counter()
        self.report(StageStart(name=name))
        yield
        self.report(StageDone(name=name, elapsed_ms=round((perf_counter() - started) * 1000)))

    def _report(self, loaded: int) -> None:
        self._reported_bytes = loaded
        loaded = min(self.before_bytes + loaded, self.total_bytes)
        self.report(WeightLoad(bytes_loaded=loaded, bytes_total=self.total_bytes, component=self.component))


def bring_into_memory(tensor: Tensor) -> None:
    """Read the pages of a mapped file that a tensor on the CPU uses, ahead of its first use."""
    import torch

    if tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.numel():
        tensor.detach().view(-1).view(torch.uint8)[::_PAGE_BYTES].max()
