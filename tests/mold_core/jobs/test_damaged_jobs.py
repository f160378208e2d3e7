"""A table of jobs that cannot be used is put aside with a word on what to do, and the engine starts."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mold_core import GenerateRequest
from mold_core.testing import FakePlugin, SketchFamily, engine_with, sketch_model

PLUGIN = FakePlugin(families=[SketchFamily()], models=[sketch_model()])


def run_one(home: Path) -> str:
    with engine_with(PLUGIN, home=home, durable=True) as engine:
        job = engine.submit(GenerateRequest(prompt="a house", model="sketch"))
        job.result(30)
        return job.id


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def scribble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:12288] = b"\xa5" * 8192
    path.write_bytes(data)


def execute(*statements: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    return change


def replace_by(*statements: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        execute(*statements)(path)

    return change


DAMAGES: dict[str, Callable[[Path], object]] = {
    "not a database": lambda path: path.write_bytes(b"these are no jobs " * 999),
    "cut": cut,
    "scribbled over": scribble,
    "of another program": replace_by("CREATE TABLE customers (name TEXT)"),
    "with other columns": replace_by("CREATE TABLE jobs (title TEXT, salary INTEGER)"),
    "of a newer mold": execute("PRAGMA user_version = 99"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_is_put_aside_and_the_engine_starts(
    damage: str, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = run_one(home)
    DAMAGES[damage](home / "jobs" / "jobs.db")
    left = (home / "jobs" / "jobs.db").read_bytes()
    with caplog.at_level(logging.WARNING):
        after = run_one(home)
    (line,) = [record.getMessage() for record in caplog.records if "cannot be used" in record.getMessage()]
    (aside,) = (home / "jobs").glob("jobs.db.damaged-*[0-9]")
    assert str(aside) in line and "To get it back" in line
    assert aside.read_bytes() == left
    assert (home / "jobs" / f"{aside.name}.results" / f"{before}.json").exists()
    assert (home / "jobs" / f"{after}.json").exists()
    caplog.clear()
    with engine_with(PLUGIN, home=home, durable=True) as engine:
        assert [job.id for job in engine.jobs()] == [after]
    assert not caplog.records


def test_an_empty_file_is_a_new_table(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    (home / "jobs").mkdir(parents=True)
    (home / "jobs" / "jobs.db").touch()
    run_one(home)
    assert not caplog.records


def test_a_row_that_cannot_be_read_hides_no_others(home: Path) -> None:
    id_ = run_one(home)
    execute(
        "INSERT INTO jobs (id, kind, state, request, created_at) VALUES ('x', 'sculpt', 'done', '{}', 1)",
        "INSERT INTO jobs (id, kind, state, request, created_at) VALUES ('y', 'generate', 'done', '[', 1)",
    )(home / "jobs" / "jobs.db")
    with engine_with(PLUGIN, home=home, durable=True) as engine:
        assert [job.id for job in engine.jobs()] == [id_]
