"""How much memory another process takes at its peak while something is done to it (Linux)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

__all__ = ["Growth", "growth_of"]


@attrs.define
class Growth:
    """The peak beyond what there was before."""

    bytes: int = 0


@contextmanager
def growth_of(pid: int) -> Iterator[Growth]:
    """Measure the peak of a process; 0 where the system does not tell it."""
    process, growth = Path(f"/proc/{pid}"), Growth()
    try:
        (process / "clear_refs").write_text("5")  # the peak is counted from now on
    except OSError:
        yield growth
        return
    before = _bytes(process, "VmRSS")
    yield growth
    growth.bytes = _bytes(process, "VmHWM") - before


def _bytes(process: Path, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", (process / "status").read_text())
    assert found is not None
    return int(found[1]) * 1024
