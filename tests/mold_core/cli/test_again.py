"""mold run --from and --preview: images made again, and shown in the terminal."""

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

from mold_core.cli.again import fields_of
from mold_core.cli.preview import half_blocks, show_image
from mold_core.media.metadata import OutputMetadata, embed_metadata, read_metadata
from mold_core.media.video import VideoFormat, VideoWriter

Mold = Callable[..., CompletedProcess[Any]]


class Terminal(StringIO):
    """A terminal that remembers."""

    def isatty(self) -> bool:
        return True


def png(*colors: tuple[int, int, int]) -> bytes:
    """Return an image one pixel wide, of these colours from above."""
    image = Image.new("RGB", (1, len(colors)))
    image.putdata(colors)
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def house(sketch_inside: Mold, tmp_path: Path) -> Path:
    """An image that mold has made."""
    made = sketch_inside("run", "a red house", "--seed", "7", "--steps", "3", "--width", "48", "-o", "house.png")
    assert made.returncode == 0
    return tmp_path / "house.png"


def test_a_image_is_made_again_byte_by_byte(sketch_inside: Mold, house: Path) -> None:
    assert sketch_inside("run", "--from", "house.png", "-o", "again.png").returncode == 0
    assert house.with_name("again.png").read_bytes() == house.read_bytes()


def test_flags_and_words_change_it(sketch_inside: Mold, house: Path) -> None:
    assert sketch_inside("run", "--from", "house.png", "--seed", "8", "a", "boat", "-o", "b.png").returncode == 0
    metadata = read_metadata(house.with_name("b.png"))
    assert metadata is not None
    assert (metadata.prompt, metadata.seed, metadata.steps, metadata.width) == ("a boat", 8, 3, 48)


@pytest.mark.parametrize("name", ["video.mp4", "video.gif"])
def test_a_video_tells_what_made_it(tmp_path: Path, name: str) -> None:
    told = OutputMetadata(
        prompt="a red ball",
        model="flipbook:v1",
        seed=3,
        steps=2,
        guidance=1.0,
        width=64,
        height=48,
        frames=9,
        fps=12,
        version="0.1.0",
    )
    path = tmp_path / name
    format: VideoFormat = "mp4" if name.endswith("mp4") else "gif"
    with path.open("w+b") as file, VideoWriter(file, format, width=64, height=48, fps=12, metadata=told) as video:
        for _ in range(9):
            video.add(Image.new("RGB", (64, 48)))
    if format == "gif":
        path.write_bytes(embed_metadata(path.read_bytes(), told))
    fields = fields_of(str(path))
    assert [fields[name] for name in ("prompt", "model", "seed", "frames", "fps")] == [
        "a red ball", "flipbook:v1", 3, 9, 12
    ]  # fmt: skip


@pytest.mark.parametrize(("data", "words"), [(None, "cannot be read"), (png((0, 0, 0)), "has no metadata of mold")])
def test_what_tells_nothing_is_refused(sketch_inside: Mold, tmp_path: Path, data: bytes | None, words: str) -> None:
    if data is not None:
        (tmp_path / "plain.png").write_bytes(data)
    done = sketch_inside("run", "--from", "plain.png", "-o", "a.png")
    assert done.returncode == 2
    assert words in done.stderr


def test_half_blocks_hold_two_pixels_each() -> None:
    image = Image.open(BytesIO(png((255, 0, 0), (0, 0, 255))))
    assert half_blocks(image, 80, 20, {"COLORTERM": "truecolor"}) == ("\x1b[38;2;255;0;0m\x1b[48;2;0;0;255m▀\x1b[0m\n")
    assert half_blocks(image, 80, 20, {}) == "\x1b[38;5;196m\x1b[48;5;21m▀\x1b[0m\n"


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
def test_terminals_that_know_images_get_the_file(environ: dict[str, str], pattern: str) -> None:
    terminal = Terminal()
    show_image(png((1, 2, 3)), terminal, environ)
    match = re.fullmatch(pattern, terminal.getvalue())
    assert match
    assert Image.open(BytesIO(base64.b64decode(match[1]))).getpixel((0, 0)) == (1, 2, 3)


def test_where_there_is_no_terminal_or_no_colour_nothing_is_shown() -> None:
    pipe, colourless = StringIO(), Terminal()
    show_image(png((1, 2, 3)), pipe, {})
    show_image(png((1, 2, 3)), colourless, {"NO_COLOR": "1"})
    assert pipe.getvalue() == colourless.getvalue() == ""
