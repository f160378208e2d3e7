"""The tree of errors is what its page says."""

from __future__ import annotations

import ast
import errno
import pickle
import re
from pathlib import Path

import pytest

from mold_core import errors
from mold_core.errors import (
    ChainError,
    CheckpointError,
    DuplicateError,
    InferenceError,
    MoldError,
    OutputError,
    UnknownModelError,
    ValidationError,
)

ROOT = Path(__file__).parents[2]

# What a server runs; the command line is where whole paths belong.
SOURCES = [
    file
    for folder in (ROOT / "mold_core", ROOT / "mold_http", *(ROOT / "plugins").iterdir())
    for file in folder.rglob("*.py")
    if not {"cli", "client", "testing", "training"} & set(file.parts)
]

# What is called error or path there is a sentence of mold, what the client itself sent, or a path in a catalog.
HARMLESS = {
    "mold_core/settings/parsing.py",
    "mold_core/wire/convert.py",
    "mold_core/catalog/pull.py",
    "mold_http/command.py",
    "mold_http/guard/bodies.py",
    "mold_http/routes/mcp.py",
}

# Names of paths and of exceptions, as they are called here, and their text.
PRIVATE = re.compile(
    r"\b(error|failure)\b(?!\.(strerror|args|public_message|name|start))"
    r"|(?<!lora\.)\b(\w*_)?(path|folder|directory)\b(?!\.name)"
)

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


# --- what is public ----------------------------------------------------------------------------------------------


class Odd(BaseException):
    """Of a plugin, with a name that does not say what it is."""

    def __str__(self) -> str:
        raise ValueError("no words")


def test_a_path_is_public_as_its_last_name() -> None:
    error = CheckpointError("%s: the file is empty", Path("/srv/models/a.gguf"), hint="pull it", local_hint="rm /srv/a")
    assert str(error) == "/srv/models/a.gguf: the file is empty; pull it; rm /srv/a"
    assert error.to_json() == {"error": "a.gguf: the file is empty; pull it", "code": "CHECKPOINT_ERROR"}


@pytest.mark.parametrize(
    "foreign",
    [KeyError("/srv/secret"), StopIteration("/srv/secret"), SystemExit("/srv/secret"), Warning("/srv/secret")],
    ids=lambda error: type(error).__name__,
)
def test_a_foreign_exception_is_public_as_its_type(foreign: BaseException) -> None:
    error = InferenceError("%s failed while generating: %s", "flux-nano", foreign)
    assert "/srv/secret" in str(error)
    said = f"flux-nano failed while generating: {type(foreign).__name__}; the server's log has the details"
    assert error.public_text == said


def test_an_exception_that_cannot_say_what_it_is_harms_nothing() -> None:
    assert InferenceError("it failed: %s", Odd()).message == "it failed: Odd: no description"


def test_an_error_of_the_disk_is_public_in_the_words_of_the_system_and_without_its_file() -> None:
    error = OutputError("cannot write %s: %s", Path("/srv/out/a.png"), OSError(errno.ENOSPC, "full", "/srv/out/a.png"))
    assert error.public_text == "cannot write a.png: No space left on device"


def test_an_error_inside_another_keeps_what_is_private_private() -> None:
    inner = InferenceError("the transformer failed: %s", RuntimeError("/srv/secret"))
    outer = pickle.loads(pickle.dumps(ChainError("stage %s failed: %s", 1, inner)))
    assert str(outer) == "stage 1 failed: the transformer failed: RuntimeError: /srv/secret"
    assert outer.public_text == "stage 1 failed: the transformer failed: RuntimeError; the server's log has the details"


def test_no_sentence_of_mold_holds_the_text_of_a_path_or_of_an_exception() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{call.lineno}: {ast.unparse(value)}"
        for file in SOURCES
        for call in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(tuple(errors.__all__))
        for text in [*call.args, *(word.value for word in call.keywords if word.arg == "hint")]
        for value in ast.walk(text)
        if isinstance(value, ast.FormattedValue)
        and PRIVATE.search(ast.unparse(value.value))
        and file.relative_to(ROOT).as_posix() not in HARMLESS
    ]
    assert found == []
