"""Limits the JSON of a request while it is received, before it is parsed.

Parsed JSON takes far more memory than its text: 60 MB of ``[],`` become 2 GB. So depth, number of values, and bytes
except media are counted as the text arrives. Media, the base64 text of a few fields, is cut out before parsing, so that
the size of the rest bounds the time and memory of the JSON parser.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any, get_args, get_type_hints

import attrs

from mold_core.errors import MalformedError
from mold_http.errors import TooLargeError

__all__ = ["MAX_DEPTH", "MAX_PLAIN_BYTES", "MAX_TOKENS", "JsonText", "media_fields", "parse_json"]

MAX_DEPTH = 64
# Brackets, commas, colons and strings. A chain of 16 stages with every field has about 1,000.
MAX_TOKENS = 20_000
# Everything except media, mostly prompts.
MAX_PLAIN_BYTES = 4 * 1024 * 1024

_TOKEN = re.compile(rb'["\[\]{},:]')
_NAME_BYTES = 100
_MAX_BACKSLASHES = 4096
_QUOTE, _COMMA, _COLON, _BRACE = b'",:{'
_OPENING, _CLOSING = b"[{", b"]}"
_LINE_BREAKS = b"\r\n"
# Media is unescaped in chunks, to avoid several copies in memory.
_PIECE_BYTES = 1024 * 1024
_ESCAPE_BYTES = len(r"\u0000")


@cache
def media_fields(body: type | None = None) -> frozenset[str]:
    """Return the names of the fields with base64 media, in requests and in the class of a body."""
    from mold_core.wire import ChainRequest, GenerateRequest, UpscaleRequest
    from mold_core.wire.schema import classes_within

    roots = [GenerateRequest, ChainRequest, UpscaleRequest, *([body] if body and attrs.has(body) else [])]
    classes = {cls for root in roots for cls in classes_within(root)}
    hints = (get_type_hints(cls) for cls in classes)
    return frozenset(name for types in hints for name, type_ in types.items() if _has_bytes(type_))


def _has_bytes(type_: Any) -> bool:
    return type_ is bytes or any(map(_has_bytes, get_args(type_)))


@attrs.define
class _Container:
    """An open object or array; `name` is the field of its values."""

    is_object: bool
    name: bytes


class JsonText:
    """The text of one JSON body. `feed` it as it arrives; `parse` it when it is complete."""

    def __init__(self, media: frozenset[str]) -> None:
        self._media = frozenset(name.encode() for name in media)
        self._text = bytearray()
        self._at = 0  # the text before it is scanned
        self._string_at: int | None = None  # start of the current string
        self._in_media = False
        self._open: list[_Container] = []
        self._name_next = False
        self._tokens = 0
        self._media_bytes = 0
        self._cuts: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._text)

    def is_blank(self) -> bool:
        """Return whether the text has only spaces and line breaks."""
        return not self._text.strip()

    def feed(self, chunk: bytes) -> None:
        """Add a chunk. Raises TooLargeError or MalformedError as soon as the text exceeds a limit."""
        self._text += chunk
        while self._at < len(self._text):
            if self._string_at is None:
                self._to_token()
            else:
                self._to_quote()
        self._check_plain_bytes()

    def parse(self) -> Any:
        """Return the tree, with media as text, and free the text. Raises ValueError, like json."""
        if self._string_at is not None:
            raise ValueError("a string is not closed")
        mark = secrets.token_hex(8)  # random, so that no received text starts with it
        media = [_text_of(memoryview(self._text)[start:end]) for start, end in self._cuts]
        plain = self._without_media(mark)
        self._text = bytearray()
        return _with_media(json.loads(plain.decode("utf-8-sig"), parse_constant=_refuse_constant), mark, media)

    # --- scanning ------------------------------------------------------------------------------------------------

    def _to_token(self) -> None:
        """Advance to the next token, or to the end of the available text."""
        found = _TOKEN.search(self._text, self._at)
        if found is None:
            self._at = len(self._text)
            return
        self._at = found.end()
        self._count_token()
        token = self._text[found.start()]
        if token == _QUOTE:
            self._begin_string()
        elif token in _OPENING:
            self._begin_container(is_object=token == _BRACE)
        elif token in _CLOSING:
            if self._open:
                self._open.pop()
            self._name_next = False
        elif token == _COMMA:
            self._name_next = bool(self._open) and self._open[-1].is_object
        elif token == _COLON:
            self._name_next = False

    def _to_quote(self) -> None:
        """Advance to the end of the string, or to the end of the available text."""
        assert self._string_at is not None
        quote = self._text.find(b'"', self._at)
        if quote < 0:
            self._at = len(self._text)
            return
        self._at = quote + 1
        self._count_token()  # NOTE: escaped quotes count too, because each one costs time
        if not self._is_escaped(quote):
            self._end_string(quote)

    def _is_escaped(self, quote: int) -> bool:
        assert self._string_at is not None
        before = self._text[max(self._string_at, quote - _MAX_BACKSLASHES) : quote]
        backslashes = len(before) - len(before.rstrip(b"\\"))
        if backslashes == _MAX_BACKSLASHES:
            raise MalformedError("the JSON has too many backslashes in a row")
        return backslashes % 2 == 1

    def _begin_string(self) -> None:
        self._string_at = self._at
        self._in_media = not self._name_next and bool(self._open) and self._open[-1].name in self._media

    def _end_string(self, quote: int) -> None:
        start, self._string_at = self._string_at, None
        assert start is not None
        if self._in_media:
            self._cuts.append((start, quote))
            self._media_bytes += quote - start
        elif self._name_next and quote - start <= _NAME_BYTES:
            self._open[-1].name = bytes(self._text[start:quote])
        elif self._name_next:
            self._open[-1].name = b""
        self._in_media = False

    def _begin_container(self, *, is_object: bool) -> None:
        name = self._open[-1].name if self._open and not is_object else b""
        self._open.append(_Container(is_object, name))
        self._name_next = is_object
        if len(self._open) > MAX_DEPTH:
            raise MalformedError(f"the JSON is nested too deeply; the limit is {MAX_DEPTH} levels")

    def _count_token(self) -> None:
        self._tokens += 1
        if self._tokens > MAX_TOKENS:
            raise _too_large(f"the JSON has too many values; the limit is {MAX_TOKENS:,} brackets, commas and quotes")

    def _check_plain_bytes(self) -> None:
        under_way = self._at - self._string_at if self._in_media and self._string_at is not None else 0
        if self._at - self._media_bytes - under_way > MAX_PLAIN_BYTES:
            raise _too_large(f"the body must have at most {MAX_PLAIN_BYTES:,} bytes without media")

    # --- parsing -------------------------------------------------------------------------------------------------

    def _without_media(self, mark: str) -> bytes:
        pieces: list[bytes] = []
        at = 0
        for number, (start, end) in enumerate(self._cuts):
            pieces += [bytes(self._text[at:start]), f"{mark}{number}".encode()]
            at = end
        return b"".join([*pieces, bytes(self._text[at:])])


def parse_json(data: bytes) -> Any:
    """Return the parsed JSON of a text without media. Raises the errors of `JsonText`."""
    text = JsonText(frozenset())
    text.feed(data)
    return text.parse()


def _text_of(raw: memoryview) -> str:
    """Return a JSON string from its text without quotes. Raw line breaks, as in base64, are removed."""
    with suppress(UnicodeDecodeError):
        text = str(raw, "ascii")
        if "\\" not in text and text.isprintable():
            return text
        del text
        return "".join(map(_unescaped, _pieces_of(raw)))
    if len(raw) > _PIECE_BYTES:  # one character outside of ASCII makes Python use four bytes per character
        raise MalformedError("media must be base64 text")
    return _unescaped(raw.tobytes())


def _unescaped(piece: bytes) -> str:
    return str(json.loads(b'"%b"' % piece.translate(None, _LINE_BREAKS)))


def _pieces_of(raw: memoryview) -> Iterator[bytes]:
    """Yield a string in chunks; none ends within an escape."""
    at = 0
    while at < len(raw):
        piece = raw[at : at + _PIECE_BYTES].tobytes()
        if at + len(piece) < len(raw) and b"\\" in piece[-_ESCAPE_BYTES:]:
            piece = piece[: piece.rindex(b"\\")].rstrip(b"\\")  # the first of several backslashes starts an escape
        if not piece:
            raise MalformedError("the JSON has too many backslashes in a row")
        yield piece
        at += len(piece)


def _with_media(tree: Any, mark: str, media: list[str]) -> Any:
    if isinstance(tree, str):
        return media[int(tree[len(mark) :])] if tree.startswith(mark) else tree
    if isinstance(tree, list):
        return [_with_media(item, mark, media) for item in tree]
    if isinstance(tree, dict):
        return {name: _with_media(item, mark, media) for name, item in tree.items()}
    return tree


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")


def _too_large(message: str) -> TooLargeError:
    return TooLargeError(message, headers={"Connection": "close"})
