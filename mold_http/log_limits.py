"""Limits equal log lines to a few a minute, so that they cannot fill the disk."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

import attrs

__all__ = ["EqualLines"]

_LINES = 10
_PERIOD_S = 60.0
_REMEMBERED = 1000

# This logger writes one line for each request.
_UNLIMITED = "mold.access"


@attrs.define
class _Seen:
    since: float
    lines: int = 0


class EqualLines(logging.Filter):
    """Passes a limited number of equal lines per period; the last one says that more are omitted."""

    def __init__(
        self, lines: int = _LINES, period_s: float = _PERIOD_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._lines = lines
        self._period_s = period_s
        self._clock = clock
        self._seen: OrderedDict[tuple[str, str], _Seen] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a line. Handlers call it under their lock."""
        if record.name == _UNLIMITED:
            return True
        text = record.getMessage()
        seen = self._of((record.name, text))
        seen.lines += 1
        if seen.lines == self._lines:
            record.msg, record.args = f"{text} (further equal lines are omitted for {self._period_s:.0f} s)", None
        return seen.lines <= self._lines

    def _of(self, key: tuple[str, str]) -> _Seen:
        now = self._clock()
        seen = self._seen.get(key)
        if seen is None or now - seen.since >= self._period_s:
            self._seen.pop(key, None)
            seen = self._seen[key] = _Seen(now)
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        return seen
