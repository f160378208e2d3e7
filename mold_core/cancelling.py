"""Asks, far below a pipeline, whether the work is still wanted: between blocks, layers, tiles, tensors.

A pipeline has its run to ask, a network and a reader of weights have not. A worker says for its thread what to ask, and
whatever computes there calls `check_cancelled` wherever it can stop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["cancelled_by", "check_cancelled", "current_check"]

Check = Callable[[], object]

_local = threading.local()


@contextmanager
def cancelled_by(check: Check) -> Iterator[None]:
    """Let `check_cancelled` call `check` in this thread while the block runs."""
    before = current_check()
    _local.check = check
    try:
        yield
    finally:
        _local.check = before


def check_cancelled() -> None:
    """Raise CancelledError if nobody waits any more for what this thread computes."""
    current_check()()


def current_check() -> Check:
    """Return what `check_cancelled` calls in this thread, for a thread that works for this one."""
    check: Check = getattr(_local, "check", _never)
    return check


def _never() -> None:
    """Find nothing: nobody has said what to ask."""
