"""mold run --from and --preview: pictures made again, and shown in the terminal."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from io import BytesIO, StringIO
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from PIL import Image

from mold_core.cli.preview import half_blocks, show_picture
from mold_core.media.metadata import read_metadata

Mold = Callable[..., CompletedProcess[Any]]


class Terminal(StringIO):
    """A terminal that remembers."""

    def isatty(self) -> bool:
        return True


def png(*colors: tuple[int, int, int]) -> bytes:
    """Return a picture one pixel wide, of these colours from above."""
    picture = Image.new("RGB", (1, len(colors)))
    picture.putdata(colors)
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def house(sketch_inside: Mold, tmp_path: Path) -> Path:
    """A picture that mold has made."""
    made = sketch_inside("run", "a red house", "--seed", "7", "--steps", "3", "--width", "48", "-o", "house.png")
    assert made.returncode == 0
    return tmp_path / "house.png"


def test_a_picture_is_made_again_byte_by_byte(sketch_inside: Mold, house: Path) -> None:
    assert sketch_inside("run", "--from", "house.png", "-o", "again.png").returncode == 0
    assert house.with_name("again.png").read_bytes() == house.read_bytes()


def test_flags_and_words_change_it(sketch_inside: Mold, house: Path) -> None:
    assert sketch_inside("run", "--from", "house.png", "--seed", "8", "a", "boat", "-o", "b.png").returncode == 0
    metadata = read_metadata(house.with_name("b.png"))
    assert metadata is not None
    assert (metadata.prompt, metadata.seed, metadata.steps, metadata.width) == ("a boat", 8, 3, 48)


@pytest.mark.parametrize(
    ("data", "words"), [(None, "cannot be read"), (png((0, 0, 0)), "does not say how it was made")]
)
def test_what_tells_nothing_is_refused(sketch_inside: Mold, tmp_path: Path, data: bytes | None, words: str) -> None:
    if data is not None:
        (tmp_path / "plain.png").write_bytes(data)
    done = sketch_inside("run", "--from", "plain.png", "-o", "a.png")
    assert done.returncode == 2
    assert words in done.stderr


def test_half_blocks_hold_two_pixels_each() -> None:
    picture = Image.open(BytesIO(png((255, 0, 0), (0, 0, 255))))
    assert half_blocks(picture, 80, 20, {"COLORTERM": "truecolor"}) == (
        "\x1b[38;2;255;0;0m\x1b[48;2;0;0;255m▀\x1b[0m\n"
    )
    assert half_blocks(picture, 80, 20, {}) == "\x1b[38;5;196m\x1b[48;5;21m▀\x1b[0m\n"


def test_half_blocks_fit_into_the_terminal() -> None:
    lines = half_blocks(Image.new("RGB", (200, 400)), 37, 10, {}).splitlines()
    assert len(lines) <= 10
    assert {line.count("▀") for line in lines} == {10}


@pytest.mark.parametrize(
    ("environ", "pattern"),
    [
        ({"KITTY_WINDOW_ID": "1"}, r"\x1b_Ga=T,f=100,m=0;([^\x1b]+)\x1b\\\n"),
        ({"TERM_PROGRAM": "iTerm.app"}, r"\x1b\]1337;File=inline=1:([^\a]+)\a\n"),
    ],
)
def test_terminals_that_know_pictures_get_the_file(environ: dict[str, str], pattern: str) -> None:
    terminal = Terminal()
    show_picture(png((1, 2, 3)), terminal, environ)
    match = re.fullmatch(pattern, terminal.getvalue())
    assert match
    assert Image.open(BytesIO(base64.b64decode(match[1]))).getpixel((0, 0)) == (1, 2, 3)


def test_where_there_is_no_terminal_or_no_colour_nothing_is_shown() -> None:
    pipe, colourless = StringIO(), Terminal()
    show_picture(png((1, 2, 3)), pipe, {})
    show_picture(png((1, 2, 3)), colourless, {"NO_COLOR": "1"})
    assert pipe.getvalue() == colourless.getvalue() == ""
