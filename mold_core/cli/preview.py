"""Pictures in the terminal: kitty's and iTerm2's protocols where they are known, half blocks everywhere else."""

from __future__ import annotations

import base64
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, TextIO, TypeAlias

import click

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["half_blocks", "show_picture"]

Pixel: TypeAlias = tuple[int, int, int]

_KITTY_CHUNK = 4096
_MAX_COLUMNS = 80
_MARGIN_ROWS = 4


def show_picture(data: bytes, stream: TextIO | None = None, environ: Mapping[str, str] | None = None) -> None:
    """Draw a picture file on the terminal; nothing where there is none, or where people want no colour."""
    environ = os.environ if environ is None else environ
    stream = stream or (sys.stdout if sys.stdout.isatty() else sys.stderr)
    if not stream.isatty() or environ.get("NO_COLOR"):
        return
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(BytesIO(data)).convert("RGB")
    except (UnidentifiedImageError, OSError):
        click.echo("note: this file cannot be shown in a terminal", err=True)
        return
    if "KITTY_WINDOW_ID" in environ or environ.get("TERM_PROGRAM") in ("ghostty", "WezTerm"):
        stream.writelines(_kitty(_png(picture)))
    elif environ.get("TERM_PROGRAM") == "iTerm.app":
        stream.write(f"\x1b]1337;File=inline=1:{base64.b64encode(_png(picture)).decode()}\a\n")
    else:
        size = shutil.get_terminal_size()
        stream.write(half_blocks(picture, min(size.columns - 1, _MAX_COLUMNS), size.lines - _MARGIN_ROWS, environ))
    stream.flush()


def half_blocks(picture: Image.Image, columns: int, rows: int, environ: Mapping[str, str]) -> str:
    """Return a picture as lines of ▀: the colour of the letter is one pixel, the one behind it the pixel below."""
    width = max(1, min(columns, round(2 * rows * picture.width / picture.height), picture.width))
    height = max(2, 2 * round(width * picture.height / picture.width / 2))
    small = picture.resize((width, height))
    color = _true if environ.get("COLORTERM") in ("truecolor", "24bit") else _of_256
    lines = []
    for y in range(0, height, 2):
        pairs = ((color(_pixel(small, x, y)), color(_pixel(small, x, y + 1))) for x in range(width))
        lines.append("".join(f"\x1b[38;{upper}m\x1b[48;{lower}m▀" for upper, lower in pairs) + "\x1b[0m\n")
    return "".join(lines)


def _pixel(picture: Image.Image, x: int, y: int) -> Pixel:
    red, green, blue = picture.getpixel((x, y))  # type: ignore[misc]  # the picture is RGB
    return int(red), int(green), int(blue)


def _true(pixel: Pixel) -> str:
    return "2;{};{};{}".format(*pixel)


def _of_256(pixel: Pixel) -> str:
    """Return the nearest colour of the cube of 6x6x6 that terminals with 256 colours have."""
    red, green, blue = (round(channel / 51) for channel in pixel)
    return f"5;{16 + 36 * red + 6 * green + blue}"


def _kitty(png: bytes) -> Iterator[str]:
    """Yield the escape sequences of kitty's graphics protocol: base64 in chunks, the last one marked."""
    text = base64.b64encode(png).decode()
    for start in range(0, len(text), _KITTY_CHUNK):
        more = int(start + _KITTY_CHUNK < len(text))
        head = f"a=T,f=100,m={more}" if start == 0 else f"m={more}"
        yield f"\x1b_G{head};{text[start : start + _KITTY_CHUNK]}\x1b\\"
    yield "\n"


def _png(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
