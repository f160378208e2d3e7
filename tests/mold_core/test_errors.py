"""The tree of errors is what its page says."""

from __future__ import annotations

import pickle
import re

import pytest

from mold_core import errors
from mold_core.errors import DuplicateError, MoldError, UnknownModelError, ValidationError

ROW = re.compile(r"^ {4}(?P<branch>[ │├└─]*)(?P<name>\w+Error) +(?P<code>[A-Z_]+) +(?P<status>\d+) +exit (?P<exit>\d+)")
ROWS = [found for line in (errors.__doc__ or "").splitlines() if (found := ROW.match(line))]
CLASSES = [getattr(errors, name) for name in errors.__all__]


def test_every_class_is_drawn_once() -> None:
    assert sorted(row["name"] for row in ROWS) == sorted(errors.__all__)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_code_and_statuses_are_as_drawn(row: re.Match[str]) -> None:
    cls = getattr(errors, row["name"])
    assert (cls.code, cls.http_status, cls.exit_status) == (row["code"], int(row["status"]), int(row["exit"]))


@pytest.mark.parametrize("row", ROWS[1:], ids=lambda row: row["name"])
def test_the_parent_is_as_drawn(row: re.Match[str]) -> None:
    above = [other for other in ROWS[: ROWS.index(row)] if len(other["branch"]) < len(row["branch"])]
    assert getattr(errors, row["name"]).__bases__ == (getattr(errors, above[-1]["name"]),)


def test_no_two_classes_share_a_code() -> None:
    assert len({cls.code for cls in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_comes_whole_out_of_a_pickle(cls: type[MoldError]) -> None:
    error = cls("no", field="loras[1].scale", value=9, hint="use 2")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert vars(again) == vars(error)
    assert (str(again), again.args) == ("no; use 2", ("no",))


def test_the_problems_of_a_validation_error_come_out_of_a_pickle() -> None:
    error = ValidationError("a; b", problems=("a", "b"))
    assert pickle.loads(pickle.dumps(error)).problems == ("a", "b")


def test_a_validation_error_has_at_least_its_own_message_as_problem() -> None:
    assert ValidationError("width must be larger").problems == ("width must be larger",)


def test_the_way_out_is_part_of_the_sentence() -> None:
    error = UnknownModelError("unknown model 'x'", hint="mold list shows all")
    assert str(error) == "unknown model 'x'; mold list shows all"


def test_an_error_without_a_way_out_is_its_message() -> None:
    assert str(DuplicateError("two")) == "two"


def test_the_envelope_of_the_api_holds_sentence_and_code() -> None:
    envelope = UnknownModelError("unknown model 'x'", hint="mold list shows all").to_json()
    assert envelope == {"error": "unknown model 'x'; mold list shows all", "code": "UNKNOWN_MODEL"}
