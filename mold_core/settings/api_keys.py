"""API keys from MOLD_API_KEY: one key, several separated by commas, or ``@file`` with one key per line."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from mold_core.errors import SettingsError
from mold_core.home import expanded

__all__ = ["read_api_keys"]

_MAX_FILE_BYTES = 1024 * 1024

_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_COMMENT = re.compile(r"(^|\s)#.*")

# Byte order marks and their encodings. UTF-32 comes before UTF-16, because its mark begins like that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_api_keys(setting: str | None) -> tuple[str, ...]:
    """Return the keys in MOLD_API_KEY; none if it is not set.

    In a file, blank lines are ignored, and so is a comment: ``#`` at the start of a line or after a space. Raises
    SettingsError for a setting or a file without any key, because a server that is meant to be locked must not start
    open; and for a file that cannot be read, with the number of the line.
    """
    if not setting:
        return ()
    text = setting.strip()
    if text.startswith("@"):
        return _keys_of_file(text[1:], expanded(text[1:]))
    keys = tuple(filter(None, (key.strip() for key in text.split(","))))
    if not keys:
        raise SettingsError(
            "MOLD_API_KEY is set, and holds no key",
            field="api_key",
            hint="set a key, or unset the variable to run without keys",
        )
    for number, key in enumerate(keys, start=1):
        _check(key, f"key {number} of MOLD_API_KEY")
    return keys


def _keys_of_file(name: str, path: Path) -> tuple[str, ...]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or "not a path"
        raise SettingsError(f"MOLD_API_KEY names {name}, which cannot be read: {reason}", field="api_key") from None
    if len(data) > _MAX_FILE_BYTES:
        raise SettingsError(f"MOLD_API_KEY names {name}, which is over {_MAX_FILE_BYTES:,} bytes", field="api_key")
    keys = []
    for number, line in enumerate(_LINE_BREAK.split(_decoded(data, name)), start=1):
        key = _COMMENT.sub("", line).strip()
        if key:
            _check(key, f"line {number} of {name}")
            keys.append(key)
    if not keys:
        raise SettingsError(f"MOLD_API_KEY names {name}, which holds no key", field="api_key", hint="one key a line")
    return tuple(keys)


def _decoded(data: bytes, name: str) -> str:
    mark, encoding = next(((mark, word) for mark, word in _MARKS if data.startswith(mark)), (b"", "utf-8"))
    data = data[len(mark) :]
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "replace")
        line = len(_LINE_BREAK.split(before))
        raise SettingsError(f"line {line} of {name} is not {encoding.upper()} text", field="api_key") from None


def _check(key: str, where: str) -> None:
    """Raise SettingsError for a key that cannot be sent in a header."""
    if not key.isprintable():
        raise SettingsError(
            f"{where} holds a character that cannot be part of a key",
            field="api_key",
            hint="save the file as UTF-8 text, with one key a line",
        )
