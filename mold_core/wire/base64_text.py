"""Base64 as clients write it: RFC 4648 in either alphabet, padded or not, wrapped, or as a `data:` URL."""

from __future__ import annotations

import binascii
import re
from urllib.parse import unquote_to_bytes

__all__ = ["decode_base64"]

_WHITESPACE = b" \t\r\n\f\v"
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
_DATA_URL = re.compile(rb"\s*data:[^,]{0,200};\s*base64\s*,", re.IGNORECASE)


def decode_base64(text: str) -> bytes:
    """Return the decoded bytes. Raises ValueError for text that is not base64."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)  # PERF: standard base64, the usual case, needs no copies
    except ValueError:
        return binascii.a2b_base64(_standard(text.encode("ascii")), strict_mode=True)


def _standard(text: bytes) -> bytes:
    """Return any accepted spelling as standard base64 (RFC 4648, section 4) with padding."""
    url = _DATA_URL.match(text)
    if url is not None:
        text = text[url.end() :]
        text = unquote_to_bytes(text) if b"%" in text else text
    text = text.translate(_STANDARD_ALPHABET, _WHITESPACE)
    return text if text.endswith(b"=") else text + b"=" * (-len(text) % 4)
