"""Previews of images in the terminal: kitty's protocol, iTerm2's, sixels, or half blocks for all other terminals.

The protocol is chosen by environment variables, or else by querying the terminal.
"""

from __future__ import annotations

import base64
import os
import select
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from time import monotonic
from typing import TYPE_CHECKING, Literal, TextIO, TypeAlias, cast, get_args

if TYPE_CHECKING:
    from PIL import Image

from mold_core.cli.output import at_terminal, echo

__all__ = ["Protocol", "half_blocks", "requested_protocol", "show_image"]

Protocol: TypeAlias = Literal["kitty", "iterm2", "sixel", "blocks"]

Pixel: TypeAlias = tuple[int, int, int]

_KITTY_CHUNK = 4096
_MAX_COLUMNS = 80
_MARGIN_ROWS = 4


_MAX_SIXEL_PX = 640
_QUERY_TIMEOUT_S = 0.3

# Value of TERM_PROGRAM, or prefix of TERM → protocol that the terminal supports.
_KNOWN: Mapping[str, Protocol] = {
    "ghostty": "kitty",
    "WezTerm": "kitty",
    "iTerm.app": "iterm2",
    "Apple_Terminal": "blocks",
    "xterm-kitty": "kitty",
    "foot": "sixel",
    "mlterm": "sixel",
    "linux": "blocks",
    "dumb": "blocks",
}


def requested_protocol(flag: bool, named: str | None, environ: Mapping[str, str]) -> Protocol | Literal["auto"] | None:
    """Return the protocol that --preview, --preview-as and MOLD_PREVIEW select; None for no preview."""
    setting = environ.get("MOLD_PREVIEW", "").strip().lower()
    if named is not None:
        return cast("Protocol", named)
    if setting in get_args(Protocol):
        return cast("Protocol", setting)
    return "auto" if flag or setting not in ("", "0", "false", "no", "off") else None


def show_image(
    data: bytes,
    stream: TextIO | None = None,
    environ: Mapping[str, str] | None = None,
    protocol: Protocol | Literal["auto"] = "auto",
) -> None:
    """Draw an image file on the terminal. Does nothing without a terminal, or if NO_COLOR is set."""
    environ = os.environ if environ is None else environ
    stream = stream or (sys.stdout if at_terminal() else sys.stderr)
    if not stream.isatty() or environ.get("NO_COLOR"):
        return
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(BytesIO(data)).convert("RGB")
    except (UnidentifiedImageError, OSError):
        echo("note: this file cannot be previewed in a terminal", err=True)
        return
    match _named_protocol(environ) or _query_terminal(stream) if protocol == "auto" else protocol:
        case "kitty":
            stream.writelines(_kitty(_png(image)))
        case "iterm2":
            stream.write(f"\x1b]1337;File=inline=1:{base64.b64encode(_png(image)).decode()}\a\n")
        case "sixel":
            from mold_core.cli.sixel import sixels

            image.thumbnail((_MAX_SIXEL_PX, _MAX_SIXEL_PX))
            stream.write(sixels(image) + "\n")
        case _:
            size = shutil.get_terminal_size()
            stream.write(half_blocks(image, min(size.columns - 1, _MAX_COLUMNS), size.lines - _MARGIN_ROWS, environ))
    stream.flush()


def _named_protocol(environ: Mapping[str, str]) -> Protocol | None:
    """Return the protocol according to the environment; None if unknown, as within tmux."""
    if "TMUX" in environ or "STY" in environ:
        return None  # the variables describe the outer terminal, which does not draw
    if "KITTY_WINDOW_ID" in environ:
        return "kitty"
    program, term = environ.get("TERM_PROGRAM", ""), environ.get("TERM", "")
    return _KNOWN.get(program) or next((kind for name, kind in _KNOWN.items() if term.startswith(name)), None)


def _query_terminal(stream: TextIO) -> Protocol:
    """Query the primary attributes (DA1) of the terminal; attribute 4 means sixels. No response means blocks."""
    try:
        import termios
        import tty

        terminal = stream.fileno()
        before = termios.tcgetattr(terminal)
    except (ImportError, OSError, ValueError):  # Windows, or no real terminal
        return "blocks"
    response = b""
    try:
        tty.setcbreak(terminal, termios.TCSANOW)
        os.write(terminal, b"\x1b[c")
        deadline = monotonic() + _QUERY_TIMEOUT_S
        while not response.endswith(b"c") and (left := deadline - monotonic()) > 0:
            if not select.select([terminal], [], [], left)[0]:
                break
            response += os.read(terminal, 64)
    except (OSError, termios.error):
        pass
    finally:
        with suppress(termios.error):
            termios.tcsetattr(terminal, termios.TCSANOW, before)
    attributes = response.partition(b"[?")[2].removesuffix(b"c").split(b";")
    return "sixel" if b"4" in attributes else "blocks"


def half_blocks(image: Image.Image, columns: int, rows: int, environ: Mapping[str, str]) -> str:
    """Return an image as lines of ▀: the foreground colour is one pixel, the background colour the pixel below it."""
    width = max(1, min(columns, round(2 * rows * image.width / image.height), image.width))
    height = max(2, 2 * round(width * image.height / image.width / 2))
    small = image.resize((width, height))
    color = _true if environ.get("COLORTERM") in ("truecolor", "24bit") else _of_256
    lines = []
    for y in range(0, height, 2):
        pairs = ((color(_pixel(small, x, y)), color(_pixel(small, x, y + 1))) for x in range(width))
        lines.append("".join(f"\x1b[38;{upper}m\x1b[48;{lower}m▀" for upper, lower in pairs) + "\x1b[0m\n")
    return "".join(lines)


def _pixel(image: Image.Image, x: int, y: int) -> Pixel:
    red, green, blue = image.getpixel((x, y))  # type: ignore[misc]  # the image is RGB
    return int(red), int(green), int(blue)


def _true(pixel: Pixel) -> str:
    return "2;{};{};{}".format(*pixel)


def _of_256(pixel: Pixel) -> str:
    """Return the nearest colour in the 6x6x6 cube of the 256-colour palette."""
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


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
