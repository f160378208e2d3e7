"""Limits connections by file descriptors; at the limit, the connection longest without progress is closed.

A server without free descriptors can neither accept connections nor open files, and asyncio floods the log. So some
descriptors are reserved for files, pipes, and connections that are accepted before others are closed. If files need
more than that, two connections are closed for each new one. The system assigns the lowest free number, so a high number
means that few are left.
"""

from __future__ import annotations

import logging
from heapq import nsmallest
from itertools import islice
from math import inf
from operator import itemgetter
from typing import Protocol

__all__ = ["ACCEPTED_AT_ONCE", "Connection", "Connections", "raise_descriptor_limit"]

log = logging.getLogger("mold.http")

# asyncio accepts this many before any of them can cause another to be closed.
ACCEPTED_AT_ONCE = 32

_JUST_ACCEPTED = 3 * ACCEPTED_AT_ONCE

_MOST_DESCRIPTORS = 65_536
_MOST_CONNECTIONS = 8192
_SPARE_SHARE = 4  # one in four descriptors is reserved
_SPARE_AT_LEAST = 6 * ACCEPTED_AT_ONCE


def raise_descriptor_limit() -> int | None:
    """Raise the descriptor limit to the maximum of the system; return it, or None if there is no limit."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= target:
        return None if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    except (OSError, ValueError):  # macOS refuses more than kern.maxfilesperproc
        return soft
    return target


class Connection(Protocol):
    """The interface of a connection that `Connections` uses."""

    def progressed_at(self) -> float:
        """Return the time of the last sent or received data, by the clock of the loop."""

    def give_way(self) -> None:
        """Close immediately."""


class Connections:
    """The open connections of a server with a limit of descriptors."""

    def __init__(self, descriptors: int | None, most: int = _MOST_CONNECTIONS) -> None:
        self._most = most if descriptors is None else min(most, descriptors - _spare(descriptors))
        self._short_from = inf if descriptors is None else descriptors - _spare(descriptors) // 2
        self._open: dict[Connection, None] = {}
        self._slow: list[tuple[float, Connection]] = []

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection, descriptor: int) -> None:
        """Add a connection; at the limit, close those longest without progress."""
        excess = 2 if descriptor >= self._short_from else len(self._open) + 1 - self._most
        for _ in range(min(excess, len(self._open))):
            log.warning("the limit of connections is reached: the one longest without progress is closed")
            slowest = self._slowest()
            self.discard(slowest)
            slowest.give_way()
        self._open[connection] = None

    def _slowest(self) -> Connection:
        # PERF: many arrive at once, so the order of some of the slowest is cached while it is valid.
        while self._slow:
            progressed_at, connection = self._slow.pop()
            if connection in self._open and connection.progressed_at() <= progressed_at:
                return connection
        # NOTE: connections that were just accepted have had no chance to make progress.
        older = islice(self._open, max(1, len(self._open) - _JUST_ACCEPTED))
        times = ((connection.progressed_at(), connection) for connection in older)
        self._slow = nsmallest(ACCEPTED_AT_ONCE, times, key=itemgetter(0))[::-1]
        return self._slow.pop()[1]

    def discard(self, connection: Connection) -> None:
        """Remove a closed connection."""
        self._open.pop(connection, None)


def _spare(descriptors: int) -> int:
    return min(max(descriptors // _SPARE_SHARE, _SPARE_AT_LEAST), descriptors // 2)
