"""Bodies that cost far more than they weigh, unless they are refused while they are read."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Mapping

__all__ = ["FORM_BOMBS", "JSON_BOMBS", "form"]

_BOUNDARY = b"boundary"
_SIZE = 1 << 20


def _filled(piece: bytes, size: int) -> bytes:
    return piece * (size // len(piece))


def _noise(size: int) -> bytes:
    return base64.b64encode(random.Random(size).randbytes(size * 3 // 4 // 3 * 3))


def form(*parts: tuple[bytes, bytes]) -> bytes:
    """Return a form of parts: what their Content-Disposition says, and their data."""
    lines = [
        b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (_BOUNDARY, about, data) for about, data in parts
    ]
    return b"".join(lines) + b"--%b--\r\n" % _BOUNDARY


# Name → the body of about so many bytes.
JSON_BOMBS: Mapping[str, Callable[[int], bytes]] = {
    "empty arrays": lambda size: b"[" + _filled(b"[],", size) + b"0]",
    "empty objects in a field": lambda size: b'{"prompt": "a", "loras": [' + _filled(b"{},", size) + b"{}]}",
    "names": lambda size: b"{" + b",".join(b'"k%d":0' % number for number in range(size // 11)) + b"}",
    "numbers": lambda size: b'{"prompt": "a", "x": [' + _filled(b"1e9,", size) + b"0]}",
    "depth": lambda size: _filled(b'{"a":', size),
    "a prompt with one wide character": lambda size: '{"prompt": "😀'.encode() + _filled(b"a", size) + b'"}',
    "a name without an end": lambda size: b'{"' + _filled(b"n", size),
    "a number without an end": lambda size: b'{"prompt": "a", "seed": ' + _filled(b"9", size) + b"}",
    "blanks": lambda size: b'{"prompt": "a"' + _filled(b" \n", size) + b"}",
    "quotes in media": lambda size: b'{"prompt": "a", "source_image": "' + _filled(b'\\"', size) + b'"}',
    "backslashes in media": lambda size: b'{"prompt": "a", "source_image": "' + _filled(b"\\", size // 2 * 2) + b'"}',
    "escapes in media": lambda size: b'{"prompt": "a", "source_image": "' + _filled(b"\\u0041", size) + b'"}',
    "wide characters in media": lambda size: (
        '{"prompt": "a", "source_image": "😀'.encode() + _filled(b"A", size) + b'"}'
    ),
    "media beside a wide character": lambda size: '{"prompt": "😀", "source_image": "'.encode() + _noise(size) + b'"}',
    "media of an unknown field": lambda size: b'{"prompt": "a", "photo": "' + _noise(size) + b'"}',
    "media that is none": lambda size: b'{"prompt": "a", "source_image": "' + _filled(b"?", size) + b'"}',
    "media in lines": lambda size: (
        b'{"prompt": "a", "source_image": "' + base64.encodebytes(base64.b64decode(_noise(size))) + b'"}'
    ),
    "many small media": lambda size: (
        b'{"prompt": "a", "keyframes": [' + _filled(b'{"frame": 0, "image": "AAAA"},', size) + b"0]}"
    ),
    "UTF-16": lambda size: ("[" + "[]," * (size // 6) + "0]").encode("utf-16"),
}

FORM_BOMBS: Mapping[str, Callable[[int], bytes]] = {
    "parts": lambda size: form(*[(b'name="x"', b"1")] * (size // 70)),
    "text": lambda size: form((b'name="prompt"', _filled(b"a", size))),
    "text in many parts, each with a wide character": lambda size: form(
        *[(b'name="p%d"' % number, "😀".encode() + _filled(b"a", size // 60)) for number in range(60)]
    ),
    "a file of a name that is not wanted": lambda size: form((b'name="x"; filename="x"', _filled(b"\0", size))),
    "an image that is none": lambda size: form((b'name="image"; filename="x"', _filled(b"\0", size))),
    "a head without an end": lambda size: b"--%b\r\nContent-Disposition: " % _BOUNDARY + _filled(b"a", size),
    "no boundary": lambda size: _filled(b"\r\n--boundar", size),
    "adapters as JSON": lambda size: form(
        (b'name="prompt"', b"a"), (b'name="loras"', _filled(b"[],", min(size, _SIZE - 99)))
    ),
    "a number": lambda size: form((b'name="prompt"', b"a"), (b'name="n"', _filled(b"9", min(size, _SIZE - 99)))),
}
