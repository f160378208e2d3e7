"""What others wrote, as it is shown: nothing in it is obeyed."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from mold_core.text import LogLines, json_text, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a red house – ünïcode 🐈‍⬛ 家", "a red house – ünïcode 🐈‍⬛ 家"),
        ("a\nb\r\nc\td", r"a\nb\r\nc\td"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b31m\x7f\x85", r"\x9b31m\x7f\x85"),
        ("\u202eesrever\u202c \u2066x\u2069 \u200f", r"\u202eesrever\u202c \u2066x\u2069 \u200f"),
        ("a\u2028b\u2029c\ufeffd", r"a\u2028b\u2029c\ufeffd"),
        ("\U000e0041tag", r"\U000e0041tag"),
        (b"\xff.png".decode("utf-8", "surrogateescape"), r"\udcff.png"),
    ],
)
def test_what_would_be_obeyed_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize("ascii", [False, True])
def test_json_means_the_same_and_holds_nothing_that_is_obeyed(ascii: bool) -> None:
    text = "".join(map(chr, range(0x3000))) + "\U000e0041🐈"
    shown = json_text({"text": text}, ascii=ascii)
    assert json.loads(shown) == {"text": text}
    assert visible(shown) == shown


def record(message: str, *arguments: object, **more: object) -> logging.LogRecord:
    about = logging.LogRecord("mold.http", logging.ERROR, __file__, 1, message, arguments, more.pop("exc_info", None))  # type: ignore[arg-type]
    vars(about).update(more)
    return about


def test_a_record_is_one_line() -> None:
    lines = LogLines("%(levelname)s %(name)s: %(message)s")
    assert lines.format(record("GET %s", "/x\n2026 ERROR forged\x1b[2J")) == (
        r"ERROR mold.http: GET /x\n2026 ERROR forged\x1b[2J"
    )


def test_a_traceback_stands_further_in_than_records_begin() -> None:
    try:
        raise RuntimeError("boom\nERROR mold.http: forged\x1b[2J")
    except RuntimeError:
        text = LogLines("%(levelname)s %(name)s: %(message)s").format(record("it failed", exc_info=sys.exc_info()))
    first, *rest = text.split("\n")
    assert first == "ERROR mold.http: it failed"
    assert all(line.startswith("    ") for line in rest)
    assert rest[-1] == r"    ERROR mold.http: forged\x1b[2J"


def test_a_traceback_of_another_process_stands_there_too() -> None:
    text = LogLines("%(message)s").format(record("cpu: it failed", exc_text="Traceback …\n  boom\x1b[2J"))
    assert text.split("\n") == ["cpu: it failed", "    Traceback …", r"      boom\x1b[2J"]
