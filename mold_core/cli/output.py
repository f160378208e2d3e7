"""The output of the command line: results on standard output, everything else on standard error, text escaped.

Standard output is reserved for the result. If it is not a terminal, `prepare_streams` moves it to another descriptor,
and whatever plugins, libraries and child processes print goes to standard error.
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

# Marks around styled text. Foreign text cannot contain one, because the number is random for each process.
_MARK = f"\U0010fffd{secrets.token_hex(8)}:"
_MARKED = re.compile(rf"{_MARK}(\w*) (\w*) (\w*)\|(.*?){_MARK}\|", re.DOTALL)

# Replacements for characters that old encodings lack.
_PLAIN = {"✓": "+", "✗": "x", "●": "*", "○": "o", "★": "*", "…": "...", "→": "->", "←": "<-", "━": "=", "─": "-"}
_PLAIN |= {"·": "-", "–": "-", "—": "-", "×": "x", "’": "'", "“": '"', "”": '"', "≥": ">=", "≤": "<="}


class _Results:
    """The stream for results; None means `sys.stdout`, until `prepare_streams` has moved it."""

    stream: TextIO | None = None
    closed = False


_RESULTS = _Results()


# --- writing -----------------------------------------------------------------------------------------------------


def style(text: str, *, fg: str | None = None, bold: bool = False, dim: bool = False) -> str:
    """Return a text that `echo` prints with a style."""
    return f"{_MARK}{fg or ''} {'bold' if bold else ''} {'dim' if dim else ''}|{text}{_MARK}|"


def echo(text: object = "", *, err: bool = False, file: IO[Any] | None = None, color: bool | None = None) -> None:
    """Write one line. Control characters and line breaks in it are escaped; only `style` adds colours."""
    stream = file or (sys.stderr if err else _stream())
    if stream is not None:
        click.echo(_rendered(str(text)), file=stream, color=color)


def echo_json(value: object) -> None:
    """Write a value as JSON."""
    stream = _stream()
    if stream is not None:
        click.echo(json_text(value, indent=2, ascii=True), file=stream)


def check_output() -> None:
    """Raise OutputError if standard output is closed."""
    if _RESULTS.closed or _stream() is None:
        raise OutputError("standard output is closed", hint="name a file with -o")


def write_result(data: bytes) -> None:
    """Write a file to standard output. Raises OSError."""
    stream = _stream()
    stream.buffer.write(data)
    stream.buffer.flush()


def at_terminal() -> bool:
    """Return whether results go to a terminal."""
    stream = _stream()
    return stream is not None and stream.isatty()


def result_descriptor() -> int:
    """Return the file descriptor for results."""
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
    """Make standard input, output and error usable in every environment, and reserve standard output for results."""
    _RESULTS.closed = not _is_open(1)
    for descriptor in (0, 1, 2):
        if not _is_open(descriptor):
            # NOTE: otherwise the next opened file, such as a database, would become standard output or error.
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
    """Redirect `sys.stdout` to standard error during the block, if standard output is reserved."""
    before = sys.stdout
    if _RESULTS.stream is not None:
        sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = before


def reserve() -> None:
    """Redirect `sys.stdout` to standard error from now on, so that only `echo` and `write_result` write results."""
    if _RESULTS.stream is not None:
        sys.stdout = sys.stderr


def give_back() -> None:
    """Restore standard output for a plugin's command, which writes its own results."""
    if _RESULTS.stream is not None:
        os.dup2(_RESULTS.stream.fileno(), 1)


class _Forgiving(io.FileIO):
    """A file that ignores write errors: if standard error is closed, messages are dropped."""

    def write(self, data: Any) -> int:
        """Write the data, or drop it if that fails."""
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
    """Return replacements for characters that an encoding lacks: similar characters, or escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = (
        _PLAIN.get(char) or char.encode("ascii", "backslashreplace").decode()
        for char in error.object[error.start : error.end]
    )
    return "".join(plain), error.end
