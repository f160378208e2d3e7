"""mold rm, mold clean and mold info --verify: what they say, and what is gone afterwards."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Mold = Callable[..., subprocess.CompletedProcess[Any]]


@pytest.fixture
def weights(home: Path, downloaded: None) -> Path:
    return home / "models" / "sketch-v1" / "weights"


def test_rm_deletes_a_model_and_says_what_it_freed(sketch_inside: Mold, weights: Path) -> None:
    done = sketch_inside("rm", "sketch", "--yes")
    assert (done.returncode, done.stdout) == (0, "✓ sketch:v1 deleted, 5 B freed\n")
    assert str(weights) in done.stderr
    assert not weights.parent.exists()


def test_rm_asks_first_and_without_anybody_to_ask_deletes_nothing(sketch: Mold, weights: Path) -> None:
    done = sketch("rm", "sketch", stdin="")
    assert done.returncode == 2
    assert "not a terminal: pass --yes" in done.stderr
    assert weights.exists()


def test_rm_goes_on_after_a_name_that_is_not_here(sketch_inside: Mold, weights: Path) -> None:
    done = sketch_inside("rm", "far", "huose", "sketch", "-y")
    assert done.returncode == 1
    assert "error: far:q8 is not downloaded" in done.stderr
    assert "error: unknown model 'huose'" in done.stderr
    assert not weights.exists()


def test_clean_shows_and_then_deletes(sketch_inside: Mold, home: Path, weights: Path) -> None:
    assert sketch_inside("clean").stdout == "Nothing to clean.\n"
    (home / "cache" / "kernels").mkdir(parents=True)
    (home / "cache" / "kernels" / "a.so").write_bytes(b"x" * 1000)
    weights.with_name(".pulling").touch()
    shown = sketch_inside("clean", "--dry-run", "--older-than", "0")
    assert "cache: 1, 1.0 kB" in shown.stdout
    assert "marker of a dead pull: 1, 0 B" in shown.stdout
    assert shown.stdout.endswith("1.0 kB would be freed\n")
    assert weights.with_name(".pulling").exists()
    assert sketch_inside("clean", "--yes", "--older-than", "0").stdout.endswith("✓ 1.0 kB freed\n")
    assert not weights.with_name(".pulling").exists()
    assert weights.exists()


def test_verify_says_of_every_file_whether_it_is_right(sketch_inside: Mold, weights: Path) -> None:
    done = sketch_inside("info", "sketch", "--verify")
    assert done.returncode == 0
    assert done.stdout == f"✓       5 B  {weights}  exists; no size or checksum is known\n"
    wrong = sketch_inside("info", "far", "--verify", "--json")
    assert wrong.returncode == 1
    assert [verdict["right"] for verdict in json.loads(wrong.stdout)] == [False]
    assert wrong.stderr == (
        "error: 1 of 1 files of far:q8 are missing or damaged; mold pull far:q8 downloads them again\n"
    )
    assert sketch_inside("info", "--verify").returncode == 2


def test_a_family_that_does_not_tell_its_parts_gets_no_table_of_memory(sketch_inside: Mold) -> None:
    assert "Memory" not in sketch_inside("info", "sketch").stdout
