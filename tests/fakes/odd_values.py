"""Values that nobody should send in a field or a header."""

from __future__ import annotations

import base64
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

__all__ = ["HEADERS", "MEDIA", "NUMBERS", "SHAPES", "TEXTS"]


def _png(width: int, height: int, data: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = wrap(value)
    return value


NUMBERS: list[Any] = [
    0,
    -1,
    1,
    2,
    7,
    63,
    64,
    65,
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63) - 1,
    10**30,
    10**400,
    10**4000,
    0.0,
    -0.0,
    0.5,
    1.5,
    1e-320,
    1e16,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
]
TEXTS: list[Any] = [
    "",
    " ",
    "\n",
    "\0",
    "a\0b",
    "null",
    "NaN",
    "1",
    "auto",
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\con",
    "~root/x",
    *(
        "\ud800",
        "\udfff\ud800",
        "\u202egnp.exe",
        "e\u0301" * 50,
        "👩‍👩‍👧‍👦",
        "\x1b[2J\x1b]0;x\x07",
        "\r\nX-Evil: 1",
        "\ufeff",
        "ı İ ß ﬀ",
    ),
    *(
        "a" * 201,
        "a" * 2001,
        "a" * 77_001,
        "é" * 40_000,
        "%s%n%d",
        "${jndi:x}",
        "{0.__class__}",
        "<script>",
        "'; --",
        "flux-nano",
    ),
    *(
        "flux-nano:bf16",
        "flux-nano:",
        ":",
        "flux-nano:nope",
        "real-esrgan",
        "ltx2-nano",
        "http://127.0.0.1:1/x",
        "file:///etc/passwd",
    ),
    *(
        "https://é.example",
        "data:image/png;base64,",
        "gpu:0",
        "gpu:-1",
        "gpu:" + "9" * 400,
        "cuda",
        "2026-01-01",
        "64x64",
        "0x0",
        "9" * 5000,
    ),
]
MEDIA: list[Any] = [
    *(
        "AAAA",
        "====",
        "A",
        "A=",
        "AA==\n",
        "-_-_",
        "data:image/png;base64,AAAA",
        _b64(b"\x89PNG\r\n\x1a\n"),
        _b64(b"GIF89a"),
    ),
    *(
        _b64(_png(8, 8, b"\0" * 200)),
        _b64(_png(65_535, 65_535, b"")),
        _b64(_png(0, 0, b"")),
        _b64(_png(2**31 - 1, 1, b"\0")),
    ),
    _b64(b"\xff\xd8\xff\xe0" + b"\0" * 50),
    _b64(b"RIFF\xff\xff\xff\xffWEBPVP8X"),
    _b64(b"fLaC" + b"\xff" * 60),
    _b64(b"\0\0\0\x18ftypisom" + b"\0" * 40),
    _b64(b"RIFF\0\0\0\0WAVEfmt "),
    _b64(random.Random(0).randbytes(3000)),
]
SHAPES: list[Any] = [
    *(
        None,
        True,
        False,
        [],
        {},
        [None],
        [[]],
        {"": None},
        [0] * 500,
        [{}] * 300,
        {"a": {"b": {"c": []}}},
        ["a", 1, None, {}],
    ),
    _nested(60, lambda inner: [inner]),
    _nested(70, lambda inner: [inner]),
    _nested(40, lambda inner: {"a": inner}),
    {str(number): number for number in range(300)},
    {"__class__": 1, "self": 2, "cls": 3, "__init__": {}},
]
HEADERS: dict[str, list[bytes]] = {
    "Accept": [
        b"",
        b"*/*;q=0",
        b"image/png;q=x",
        b"text/event-stream",
        b",,;;",
        b"a" * 5000,
        b"application/json;q=1e400",
        b"\xff",
    ],
    "Range": [
        b"bytes=0-",
        b"bytes=-",
        b"bytes=9-1",
        b"bytes=0-0,1-1",
        b"items=1",
        b"bytes=" + b"9" * 500 + b"-",
        b"bytes=-" + b"9" * 30,
    ],
    "If-Range": [
        b'"x"',
        b"Wed, 99 Foo 2026",
        b"\xff",
    ],
    "If-None-Match": [
        b"*",
        b'"',
        b'W/"x',
        b"," * 500,
    ],
    "If-Modified-Since": [
        b"Wed, 99 Foo 20260",
        b"0",
        b"Thu, 01 Jan 99999 00:00:00 GMT",
    ],
    "Last-Event-ID": [
        b"-1",
        b"9" * 500,
        b"x",
        b"1e9",
        b"\xd9\xa1",
        b"",
    ],
    "Idempotency-Key": [
        b"",
        b"a" * 201,
        b"\xff",
        b"a b",
        b"key",
    ],
    "Origin": [
        b"null",
        b"http://[::1",
        b"http://localhost:x",
        b"\xff",
        b"http://localhost:99999999",
    ],
    "X-Request-ID": [
        b"a" * 65,
        b"\xff",
        b"%0a",
        b"ok",
    ],
    "X-Forwarded-For": [
        b"::",
        b"x" * 500,
        b"127.0.0.1",
    ],
    "X-Forwarded-Proto": [
        b"javascript",
        b"https,http",
    ],
    "Content-Encoding": [
        b"gzip",
        b"br",
        b"identity",
        b"x",
    ],
    "Content-Type": [
        b"application/json; charset=utf-16",
        b"multipart/form-data; boundary=",
        b"\xff",
        b"text/json",
        b"application/+json",
    ],
    "Authorization": [
        b"Bearer",
        b"Basic \xff",
        b"Bearer " + b"a" * 9000,
    ],
    "Cookie": [
        b"=;;=" * 200,
        b"\xff",
    ],
    "Expect": [
        b"100-continue",
        b"x",
    ],
    "Upgrade": [
        b"websocket",
        b"h2c",
    ],
}
