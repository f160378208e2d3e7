"""Conditional and partial requests for files (RFC 9110, 13 and 14): validators, 304, 206 and 416."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any, Literal

import attrs
import falcon.asgi

__all__ = ["Span", "Validators", "requested_span", "respond_bytes", "respond_not_modified"]

_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_RANGE = re.compile(r"(\d{0,19})-(\d{0,19})", re.ASCII)


@attrs.frozen
class Validators:
    """Validators of a version of a file: an entity tag and, if known, the time of the last change."""

    tag: str
    modified_s: float | None = None

    @classmethod
    def of_content(cls, data: bytes, modified_s: float | None = None) -> Validators:
        """Return the validators of content in memory."""
        return cls(f'"{hashlib.sha256(data).hexdigest()[:32]}"', modified_s)

    @classmethod
    def of_file(cls, modified_ns: int, size_bytes: int) -> Validators:
        """Return the validators of a file from its modification time and size."""
        return cls(f'"{modified_ns & (2**64 - 1):x}-{size_bytes:x}"', modified_ns / 1e9)

    @property
    def last_modified(self) -> str | None:
        """The time of the last change in HTTP's format; None if it is unknown or out of range."""
        moment = self._moment()
        return format_datetime(moment, usegmt=True) if moment else None

    def put_on(self, resp: falcon.asgi.Response) -> None:
        """Add the validators to a response."""
        resp.set_header("ETag", self.tag)
        if self.last_modified is not None:
            resp.set_header("Last-Modified", self.last_modified)

    def same_as(self, req: falcon.asgi.Request) -> bool:
        """Return whether the client already has this version, by If-None-Match or else If-Modified-Since."""
        tags = req.get_header("If-None-Match")
        if tags is not None:
            known = [tag.removeprefix("W/") for tag in _TAG.findall(tags)]
            return tags.strip() == "*" or self.tag in known
        since, moment = _http_date(req.get_header("If-Modified-Since")), self._moment()
        return since is not None and moment is not None and moment <= since

    def allow_range(self, req: falcon.asgi.Request) -> bool:
        """Return whether a range may be sent: If-Range is absent or names this version."""
        version = req.get_header("If-Range")
        return version is None or version.strip() in (self.tag, self.last_modified)

    def _moment(self) -> datetime | None:
        if self.modified_s is None:
            return None
        try:
            return datetime.fromtimestamp(int(self.modified_s), UTC)
        except (OverflowError, ValueError, OSError):
            return None


def _http_date(text: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@attrs.frozen
class Span:
    """First and last byte of a range of a file, both included."""

    first: int
    last: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.last - self.first + 1


def requested_span(req: falcon.asgi.Request, size: int, validators: Validators) -> Span | Literal["whole", "none"]:
    """Return the requested range, "whole" for the whole file, "none" for a range outside the file (416).

    Only GET has ranges. Other units than bytes and multiple ranges are ignored: the response is the whole file.
    """
    header = req.get_header("Range")
    if header is None or req.method != "GET" or not validators.allow_range(req):
        return "whole"
    unit, equals, ranges = header.partition("=")
    if unit.strip().lower() != "bytes" or not equals:
        return "whole"
    spans = [_span(text.strip(), size) for text in ranges.split(",") if text.strip()]
    if len(spans) == 1:
        return spans[0] or "none"
    return "whole" if any(spans) else "none"


def _span(text: str, size: int) -> Span | None:
    """Return one range of a Range header; None if it is invalid or beyond the end."""
    match = _RANGE.fullmatch(text)
    if match is None or not (match[1] or match[2]) or size == 0:
        return None
    if not match[1]:
        count = min(int(match[2]), size)
        return Span(size - count, size - 1) if count else None
    first, last = int(match[1]), min(int(match[2] or size - 1), size - 1)
    return Span(first, last) if first <= last else None


def respond_not_modified(req: falcon.asgi.Request, resp: falcon.asgi.Response, validators: Validators) -> bool:
    """Add validators to a response; make it a 304 and return True if the client already has this version."""
    validators.put_on(resp)
    if not validators.same_as(req):
        return False
    resp.status = 304
    return True


def respond_bytes(req: falcon.asgi.Request, resp: falcon.asgi.Response, data: bytes, **about: Any) -> None:
    """Respond with content in memory, or with 304 if the client already has it."""
    if not respond_not_modified(req, resp, Validators.of_content(data, **about)):
        resp.data = data
