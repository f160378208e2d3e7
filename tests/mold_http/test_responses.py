"""How values become JSON."""

from __future__ import annotations

from enum import IntEnum

import attrs
import numpy as np

from mold_http.responses import json_of


class Name(str):
    """Text of a class of its own."""


class Level(IntEnum):
    high = 3


@attrs.frozen
class Held:
    """What an answer may hold."""

    name: str
    level: int
    share: float
    data: bytes
    nothing: str | None
    left_out: str | None = None


def test_subclasses_of_plain_types_go_out_as_these() -> None:
    held = Held(Name("ab"), Level.high, np.float64(0.5), b"\x00\xff", None)
    expected = {"name": "ab", "level": 3, "share": 0.5, "data": "AP8=", "nothing": None}
    assert json_of(held) == expected
    assert json_of([held, {"a": Name("cd")}]) == [expected, {"a": "cd"}]
