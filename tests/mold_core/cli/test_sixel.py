"""Images as sixels: what a terminal draws of them, and which terminals get them."""

from __future__ import annotations

import os
import pty
import re
import threading
from io import BytesIO

import pytest
from PIL import Image, ImageChops

from mold_core.cli.preview import requested_protocol, show_image
from mold_core.cli.sixel import sixels


def drawn(text: str) -> Image.Image:
    """Return what a terminal makes of sixels, by the VT340's manual."""
    found = re.fullmatch(r'\x1bP0;1q"1;1;(\d+);(\d+)(.*)\x1b\\', text.rstrip("\n"), re.DOTALL)
    assert found
    image = Image.new("RGB", (int(found[1]), int(found[2])), "magenta")
    colors: dict[str, tuple[int, ...]] = {}
    x = y = 0
    color: tuple[int, ...] = ()
    for number, rgb, count, sign in re.findall(r"#(\d+)(?:;2;([\d;]+))?|(?:!(\d+))?([?-~$-])", found[3]):
        if rgb:
            colors[number] = tuple(round(int(part) * 2.55) for part in rgb.split(";"))
        elif number:
            color = colors[number]
        elif sign in "$-":
            x, y = 0, y + 6 * (sign == "-")
        else:
            for column in range(x, x + int(count or 1)):
                for row in range(6):
                    if (ord(sign) - 63) >> row & 1:
                        image.putpixel((column, y + row), color)  # type: ignore[arg-type]
            x += int(count or 1)
    return image


def painted(size: tuple[int, int]) -> Image.Image:
    image = Image.linear_gradient("L").resize(size)
    return Image.merge("RGB", (image, image.rotate(180), Image.new("L", size, 40)))


@pytest.mark.parametrize("size", [(1, 1), (50, 6), (33, 47)], ids=str)
def test_a_terminal_draws_every_pixel_in_nearly_its_colour(size: tuple[int, int]) -> None:
    image = painted(size)
    shown = drawn(sixels(image))
    assert shown.size == size
    assert max(high for _, high in ImageChops.difference(shown, image).getextrema()) <= 24  # type: ignore[misc]


def test_a_plane_of_one_colour_is_short() -> None:
    assert len(sixels(Image.new("RGB", (600, 600), (255, 0, 0)))) < 2000


@pytest.mark.parametrize(
    ("answer", "beginning"), [(b"\x1b[?62;4;22c", "\x1bP0;1q"), (b"\x1b[?62;22c", "\x1b[38;"), (b"", "\x1b[38;")]
)
def test_a_terminal_that_is_not_known_is_asked(answer: bytes, beginning: str) -> None:
    ours, theirs = pty.openpty()

    def terminal() -> None:
        seen = b""
        while not seen.endswith(b"\x1b[c"):
            seen += os.read(ours, 16)
        os.write(ours, answer)
        while b"\n" not in (piece := os.read(ours, 65_536)):
            shown.append(piece)
        shown.append(piece)

    shown: list[bytes] = []
    thread = threading.Thread(target=terminal, daemon=True)
    thread.start()
    data = BytesIO()
    painted((8, 2)).save(data, "PNG")
    with os.fdopen(theirs, "w") as stream:
        show_image(data.getvalue(), stream, {"TERM": "xterm-256color"})
        thread.join(10)
    os.close(ours)
    assert b"".join(shown).decode().startswith(beginning)


@pytest.mark.parametrize(
    ("flag", "named", "setting", "wished"),
    [
        (False, None, "", None),
        (False, None, "0", None),
        (True, None, "", "auto"),
        (False, None, "1", "auto"),
        (False, None, "sixel", "sixel"),
        (True, "blocks", "sixel", "blocks"),
    ],
)
def test_a_flag_stands_before_the_setting(flag: bool, named: str | None, setting: str, wished: str | None) -> None:
    assert requested_protocol(flag, named, {"MOLD_PREVIEW": setting}) == wished
