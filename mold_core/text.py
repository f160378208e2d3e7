"""Escapes control characters in foreign text, to print it safely in terminals and logs."""

from __future__ import annotations

import json
import logging
import re

__all__ = ["LogLines", "json_text", "readable_size", "visible"]

# Control characters, including line breaks; marks that change the direction of text or break lines; lone surrogates;
# invisible tags. Joiners are not escaped: scripts and emoji need them.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def visible(text: str) -> str:
    r"""Return the text as one line with control characters escaped, such as ``\x1b`` and ``\n``."""
    return _UNSAFE.sub(_escape, text)


def json_text(value: object, *, indent: int | None = None, ascii: bool = False) -> str:
    """Return a value as JSON with control characters escaped, or with `ascii` everything that is not ASCII."""
    return _UNSAFE.sub(_escape_json, json.dumps(value, indent=indent, default=str, ensure_ascii=ascii))


class LogLines(logging.Formatter):
    """Formats log records: one line per record, with the traceback on indented lines below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line, and its traceback if it has one."""
        record.message = visible(record.getMessage())
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        return "\n    ".join([self.formatMessage(record) + self.about(record), *map(visible, trace_of(record))])

    def about(self, record: logging.LogRecord) -> str:
        """Return text to append to the message. Subclasses override it."""
        return ""


def trace_of(record: logging.LogRecord) -> list[str]:
    """Return the lines of a record's traceback. Records of other processes have it as text."""
    text = logging.Formatter().formatException(record.exc_info) if record.exc_info else record.exc_text or ""
    return text.splitlines()


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    if char in _SHORT:
        return _SHORT[char]
    return (
        f"\\x{ord(char):02x}"
        if char <= "\xff"
        else f"\\u{ord(char):04x}"
        if char <= "\uffff"
        else f"\\U{ord(char):08x}"
    )


def _escape_json(match: re.Match[str]) -> str:
    # Line breaks between values are part of the JSON layout; those in texts are already escaped.
    return match[0] if match[0] == "\n" else json.dumps(match[0])[1:-1].replace("\x7f", "\\u007f")


def readable_size(size_bytes: int) -> str:
    """Return a size in decimal units, such as 23.1 GB."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
