"""A hundred of the requests that `make soak` sends by the thousand, with values that nobody should send."""

from __future__ import annotations

from pathlib import Path

from field_fuzz import cases, fuzz, shown
from http_server import serving


def test_odd_values_are_refused_and_never_fail(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as server:
        outcomes = fuzz(server, cases(2026, 100), 2)
        assert server.ask("GET", "/health").status == 200
    assert len(outcomes) == 100
    assert [shown(outcome) for outcome in outcomes if outcome.status >= 500 or outcome.status == 0] == []
