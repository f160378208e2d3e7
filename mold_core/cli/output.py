"""What the command line writes: results on standard output, all else on standard error, and no text that is obeyed.

Standard output belongs to the result. Where it is no terminal, `prepare_streams` puts it aside, and whatever a plugin,
a library or a child process prints goes to standard error.
"""

from __future__ import annotations

import codecs
import io
import logging
import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, TextIO

import click

from mold_core.errors import OutputError
from mold_core.text import LogLines, json_text, visible

__all__ = [
    "at_terminal",
    "check_output",
    "echo",
    "echo_json",
    "foreign_code",
    "give_back",
    "prepare_streams",
    "reserve",
    "result_descriptor",
    "style",
    "write_result",
]

# Marks around styled text. What others wrote cannot hold one, since the number is drawn at each start.
_MARK = f"\U0010fffd{secrets.token_hex(8)}:"
_MARKED = re.compile(rf"{_MARK}(\w*) (\w*) (\w*)\|(.*?){_MARK}\|", re.DOTALL)

# Signs that old encodings lack.
_PLAIN = {"✓": "+", "✗": "x", "●": "*", "○": "o", "★": "*", "…": "...", "→": "->", "←": "<-", "━": "=", "─": "-"}
_PLAIN |= {"·": "-", "–": "-", "—": "-", "×": "x", "’": "'", "“": '"', "”": '"', "≥": ">=", "≤": "<="}


class _Results:
    """Where results go: None for `sys.stdout` as it is, until `prepare_streams` has put it aside."""

    stream: TextIO | None = None
    closed = False


_RESULTS = _Results()


# --- writing -----------------------------------------------------------------------------------------------------


def style(text: str, *, fg: str | None = None, bold: bool = False, dim: bool = False) -> str:
    """Return a text that `echo` shows so."""
    return f"{_MARK}{fg or ''} {'bold' if bold else ''} {'dim' if dim else ''}|{text}{_MARK}|"


def echo(text: object = "", *, err: bool = False, file: IO[Any] | None = None, color: bool | None = None) -> None:
    """Write one line. Control characters and line breaks in it are shown as escapes; colours come from `style` only."""
    stream = file or (sys.stderr if err else _stream())
    if stream is not None:
        click.echo(_rendered(str(text)), file=stream, color=color)


def echo_json(value: object) -> None:
    """Write a value as JSON."""
    stream = _stream()
    if stream is not None:
        click.echo(json_text(value, indent=2, ascii=True), file=stream)


def check_output() -> None:
    """Raise OutputError where standard output is closed, so that no file could be written to it."""
    if _RESULTS.closed or _stream() is None:
        raise OutputError("standard output is closed", hint="name a file with -o")


def write_result(data: bytes) -> None:
    """Write a file to standard output. Raises OSError."""
    stream = _stream()
    stream.buffer.write(data)
    stream.buffer.flush()


def at_terminal() -> bool:
    """Say whether results go to a terminal."""
    stream = _stream()
    return stream is not None and stream.isatty()


def result_descriptor() -> int:
    """Return the file descriptor that results go to."""
    try:
        return 1 if _RESULTS.stream is None else _RESULTS.stream.fileno()
    except (OSError, ValueError):
        return 1


def _stream() -> Any:
    return _RESULTS.stream or sys.stdout


def _rendered(text: str) -> str:
    pieces, end = [], 0
    for found in _MARKED.finditer(text):
        fg, bold, dim, inside = found.groups()
        pieces.append(visible(text[end : found.start()]))
        pieces.append(click.style(visible(inside), fg=fg or None, bold=bool(bold) or None, dim=bool(dim) or None))
        end = found.end()
    return "".join([*pieces, visible(text[end:])])


# --- streams -----------------------------------------------------------------------------------------------------


def prepare_streams() -> None:
    """Make the three streams such that whatever comes can be written, and put standard output aside for results."""
    _RESULTS.closed = not _is_open(1)
    for descriptor in (0, 1, 2):
        if not _is_open(descriptor):
            # NOTE: the next file that is opened would become standard output or error otherwise: a database, say.
            _occupy(descriptor)
    codecs.register_error("mold.plain", _in_plain_signs)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8")
    if sys.stderr is None or not sys.stderr.isatty():
        sys.stderr = _text_stream(_Forgiving(2, "wb", closefd=False), sys.stderr)
    if sys.stdout is None or not sys.stdout.isatty():
        _put_aside()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="mold.plain")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(LogLines("%(message)s"))


@contextmanager
def foreign_code() -> Iterator[None]:
    """Send what the code in the block prints to standard error, where standard output was put aside."""
    before = sys.stdout
    if _RESULTS.stream is not None:
        sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = before


def reserve() -> None:
    """Keep standard output to `echo` and `write_result` from now on, where it was put aside."""
    if _RESULTS.stream is not None:
        sys.stdout = sys.stderr


def give_back() -> None:
    """Make standard output what it was: for a command of a plugin, which writes its own results."""
    if _RESULTS.stream is not None:
        os.dup2(_RESULTS.stream.fileno(), 1)


class _Forgiving(io.FileIO):
    """A file that takes everything: nobody is told that nobody reads what is told."""

    def write(self, data: Any) -> int:
        """Write the data if that is possible."""
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


def _put_aside() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    _RESULTS.stream = sys.stdout = _text_stream(io.FileIO(kept, "wb", closefd=False), sys.stdout)


def _text_stream(raw: io.FileIO, like: TextIO | None) -> TextIO:
    encoding = getattr(like, "encoding", None) or "utf-8"
    is_error = raw.fileno() == 2
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "mold.plain", line_buffering=is_error)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _occupy(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)


def _in_plain_signs(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return what stands for characters that an encoding lacks: signs like them, or else their escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = (
        _PLAIN.get(char) or char.encode("ascii", "backslashreplace").decode()
        for char in error.object[error.start : error.end]
    )
    return "".join(plain), error.end
