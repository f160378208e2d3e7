"""Thousands of requests with values that nobody should send: each is answered, soon, and none with a failure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from field_fuzz import Honest, cases, counts, fuzz, shown
from http_server import serving

pytestmark = pytest.mark.soak

CASES = int(os.environ.get("MOLD_SOAK_FIELD_CASES", "5000"))
SEED = int(os.environ.get("MOLD_SOAK_SEED", "14"))
CLIENTS = 4
ANSWER_S = 10.0
HONEST_P95_S = 0.2


def test_no_value_of_a_field_makes_the_server_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path / "home", log=tmp_path / "log", MOLD_EXECUTOR="process") as server:
        for model in ("flux-nano", "ltx2-nano"):  # loading is work that may take its time
            assert server.ask("POST", "/api/models/load", {"model": model}, patience_s=300).status == 200
        with Honest(server) as honest:
            outcomes = fuzz(server, cases(SEED, CASES), CLIENTS)
    p95 = {path: honest.p95_s(path) for path in honest.times_s}
    with capsys.disabled():
        print(f"\nseed {SEED}: {len(outcomes)} requests, by status {counts(outcomes)}")
        print(f"slowest {max(outcome.elapsed_s for outcome in outcomes):.2f} s; honest client, p95 in seconds: {p95}")
    assert len(outcomes) == CASES
    assert [shown(outcome) for outcome in outcomes if outcome.status >= 500 or outcome.status == 0] == []
    assert [shown(outcome) for outcome in outcomes if outcome.elapsed_s > ANSWER_S] == []
    assert honest.refused == []
    assert max(p95.values()) < HONEST_P95_S
