"""More connections than there are descriptors for: the server answers, and says little about it."""

from __future__ import annotations

from pathlib import Path

import pytest
from crowd import Crowd, crowding, health_times
from http_server import serving

pytestmark = pytest.mark.soak

CROWD = Crowd(idle=1000, streams=1000, dripping=300)
HEALTH_S = 1.0
LOG_BYTES = 100_000


def test_a_crowd_at_1024_descriptors_keeps_nobody_waiting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    with serving(tmp_path / "home", descriptors=1024, log=log, MOLD_EXECUTOR="process") as server:
        with crowding(server, CROWD):
            (first,) = health_times(server, 1)  # behind all who came before it
            times = health_times(server, 200)
            assert server.ask("GET", "/api/status").status == 200
        after = health_times(server, 20)
    with capsys.disabled():
        print(f"\n{CROWD}: /health {first:.3f} s behind the crowd")
        print(f"then {max(times):.3f} s at most, {max(after):.3f} s when it has gone")
        print(f"log {log.stat().st_size:,} bytes")
    assert max(times) < HEALTH_S
    assert log.stat().st_size < LOG_BYTES
