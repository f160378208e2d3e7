"""Which models stay in memory, by their measured bytes."""

from __future__ import annotations

import attrs
import pytest

from mold_core import InsufficientMemoryError
from mold_core.engine.worker.residency import Residency


@attrs.define
class Loaded:
    """A pipeline that only takes room."""

    name: str
    size_bytes: int
    closed: list[str]

    def generate(self, requests: object, run: object) -> list[object]:
        return []

    def close(self) -> None:
        self.closed.append(self.name)


class Room:
    """A residency of 100 bytes, and what was closed in it."""

    def __init__(self) -> None:
        self.residency = Residency(100)
        self.closed: list[str] = []

    def get(self, name: str, size_bytes: int = 40, *, expected_bytes: int = 0) -> object:
        made = Loaded(name, size_bytes, self.closed)
        return self.residency.get(name, expected_bytes, lambda: made)  # type: ignore[arg-type, return-value]


def test_a_model_is_loaded_once() -> None:
    room = Room()
    assert room.get("a") is room.get("a")


def test_models_stay_while_they_fit() -> None:
    room = Room()
    room.get("a")
    room.get("b")
    assert (room.residency.names, room.residency.used_bytes, room.closed) == (("a", "b"), 80, [])


def test_the_one_that_was_not_used_for_longest_goes_first() -> None:
    room = Room()
    room.get("a")
    room.get("b")
    room.get("a")
    room.get("c")
    assert (room.residency.names, room.closed) == (("a", "c"), ["b"])


def test_as_many_go_as_it_takes() -> None:
    room = Room()
    for name in "abc":
        room.get(name, 30)
    room.get("d", 80)
    assert (room.residency.names, room.closed) == (("d",), ["a", "b", "c"])


def test_room_is_made_before_loading_for_what_the_files_announce() -> None:
    room = Room()
    room.get("a")
    seen: list[tuple[str, ...]] = []

    def load() -> Loaded:
        seen.append(room.residency.names)
        return Loaded("b", 10, room.closed)

    room.residency.get("b", 90, load)  # type: ignore[arg-type]
    assert seen == [()]
    assert room.residency.names == ("b",)


def test_a_model_whose_files_are_too_large_is_refused_before_anything_is_closed() -> None:
    room = Room()
    room.get("a")
    with pytest.raises(InsufficientMemoryError, match=r"model 'b' needs .* GB and the budget is .* raise MOLD_MEMORY"):
        room.get("b", expected_bytes=101)
    assert room.residency.names == ("a",)


def test_a_model_that_turns_out_too_large_is_closed_again() -> None:
    room = Room()
    with pytest.raises(InsufficientMemoryError) as caught:
        room.get("b", 101)
    assert (room.residency.names, room.closed, caught.value.value) == ((), ["b"], "b")


def test_a_model_that_fails_to_load_leaves_nothing() -> None:
    room = Room()

    def load() -> Loaded:
        raise OSError("damaged")

    with pytest.raises(OSError, match="damaged"):
        room.residency.get("a", 0, load)  # type: ignore[arg-type]
    assert room.residency.names == ()


def test_a_dropped_model_is_closed_and_loaded_anew() -> None:
    room = Room()
    first = room.get("a")
    assert room.residency.drop("a")
    assert not room.residency.drop("a")
    assert room.get("a") is not first


def test_a_model_that_cannot_be_closed_is_gone_all_the_same() -> None:
    class Stubborn(Loaded):
        def close(self) -> None:
            raise RuntimeError("no")

    room = Room()
    room.residency.get("a", 0, lambda: Stubborn("a", 90, []))  # type: ignore[arg-type, return-value]
    room.get("b")
    assert room.residency.names == ("b",)


def test_clearing_closes_everything() -> None:
    room = Room()
    room.get("a")
    room.get("b")
    room.residency.clear()
    assert (room.residency.names, room.residency.used_bytes, room.closed) == ((), 0, ["a", "b"])
