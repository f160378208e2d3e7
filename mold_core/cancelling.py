"""Lets code deep inside a computation stop when its job is cancelled: between blocks, layers, tiles, tensors.

A pipeline has a `run` to check; a network and a reader of weights do not. A worker registers a check for its thread,
and code that runs in the thread calls `check_cancelled` wherever it can stop.
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
    """Make `check_cancelled` call `check` in this thread during the block."""
    before = current_check()
    _local.check = check
    try:
        yield
    finally:
        _local.check = before


def check_cancelled() -> None:
    """Raise CancelledError if the job that this thread works for is cancelled."""
    current_check()()


def current_check() -> Check:
    """Return the check of this thread, to register it in a helper thread."""
    check: Check = getattr(_local, "check", _never)
    return check


def _never() -> None:
    """The check of threads without a registered one: never cancelled."""
