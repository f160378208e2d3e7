"""The machine's memory is known on every system."""

from __future__ import annotations

import ctypes
import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from mold_core import Settings
from mold_core.host_memory import available_bytes, physical_bytes
from mold_core.placement.device import budget_bytes, free_bytes


def test_what_is_available_is_part_of_all() -> None:
    assert 0 < available_bytes() <= physical_bytes()


def test_windows_tells_its_memory_by_another_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def status_of(reference: Any) -> int:
        reference._obj.total, reference._obj.available = 32_000_000_000, 20_000_000_000
        return 1

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(os, "sysconf")
    kernel = SimpleNamespace(GlobalMemoryStatusEx=status_of)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    assert (physical_bytes(), available_bytes()) == (32_000_000_000, 20_000_000_000)
    assert (budget_bytes(Settings(), "cpu"), free_bytes("cpu")) == (25_600_000_000, 18_000_000_000)
