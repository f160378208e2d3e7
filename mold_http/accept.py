"""Content negotiation: the Accept header with quality values (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import falcon.asgi

__all__ = ["EVENTS", "JSON", "preferred", "wants_events"]

JSON = "application/json"
EVENTS = "text/event-stream"

_MAX_RANGES = 50
_QUALITY = re.compile(r"(0(\.\d{0,3})?|1(\.0{0,3})?)", re.ASCII)


def preferred(req: falcon.asgi.Request, offers: Sequence[str]) -> str:
    """Return the offered content type that the client prefers; the first one if several or none are preferred."""
    ranges = _media_ranges(req.get_header("Accept"))
    return max(offers, key=lambda offer: _quality_of(offer, ranges))  # max keeps the first of equals


def wants_events(req: falcon.asgi.Request, instead_of: str) -> bool:
    """Return whether the client asks for server-sent events by name, and prefers no other offered type."""
    ranges = _media_ranges(req.get_header("Accept"))
    quality = ranges.get(EVENTS, 0.0)
    return quality > 0 and quality >= _quality_of(instead_of, ranges)


def _media_ranges(header: str | None) -> dict[str, float]:
    """Return media range → quality. Ignores parameters other than q, and malformed members."""
    if header is None or not header.strip():
        return {"*/*": 1.0}
    ranges: dict[str, float] = {}
    for member in header.split(",")[:_MAX_RANGES]:
        media_range, *parameters = (part.strip().lower() for part in member.split(";"))
        quality = next((value[2:].strip() for value in parameters if value.startswith("q=")), "1")
        if "/" in media_range and _QUALITY.fullmatch(quality):
            ranges[media_range] = max(float(quality), ranges.get(media_range, 0.0))
    return ranges


def _quality_of(content_type: str, ranges: dict[str, float]) -> float:
    """Return the quality of the most specific range that matches a content type; 0 if none matches."""
    kind = content_type.partition("/")[0]
    for media_range in (content_type, f"{kind}/*", "*/*"):
        if media_range in ranges:
            return ranges[media_range]
    return 0.0
