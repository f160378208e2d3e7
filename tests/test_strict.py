"""MOLD_TESTS_STRICT: a test that is skipped because something is missing fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_needs_a_tool():
    pytest.skip("no browser: none is installed")

@pytest.mark.skipif(True, reason="the examples are curl commands")
def test_needs_another():
    pass

def test_is_not_for_this_machine():
    pytest.skip("this machine has a GPU")

def test_holds():
    pass
"""
MODULE = """
import pytest
pytest.importorskip("a_package_that_nobody_has")
"""


@pytest.mark.parametrize(
    ("strict", "counts"), [("1", "1 failed, 1 passed, 1 skipped, 2 errors"), ("", "1 passed, 4 skipped")]
)
def test_a_skip_for_something_missing_is_a_failure(tmp_path: Path, strict: str, counts: str) -> None:
    (tmp_path / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text("utf-8"), "utf-8")
    (tmp_path / "test_tools.py").write_text(TESTS)
    (tmp_path / "test_package.py").write_text(MODULE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", tmp_path],
        env={**os.environ, "MOLD_TESTS_STRICT": strict},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert counts in done.stdout, done.stdout
    assert ("MOLD_TESTS_STRICT is set, and this was skipped: Skipped: no browser" in done.stdout) == bool(strict)
