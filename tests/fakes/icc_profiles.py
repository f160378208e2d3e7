"""Small ICC profiles of monitors, written here: three primaries and a gamma (ICC.1:2001-04)."""

from __future__ import annotations

import struct
from io import BytesIO

from PIL import Image, ImageCms

# XYZ of red, green and blue at full power, adapted to D50.
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
D50 = (0.9642, 1.0, 0.8249)


def rgb_profile(primaries: tuple[tuple[float, ...], ...] = ADOBE_RGB, gamma: float = 2.2) -> bytes:
    """Return a profile of RGB samples."""
    curve = b"curv" + struct.pack(">IIHxx", 0, 1, round(gamma * 256))
    tags = {"wtpt": _xyz(D50)} | {f"{name}XYZ": _xyz(xyz) for name, xyz in zip("rgb", primaries, strict=True)}
    tags |= {f"{name}TRC": curve for name in "rgb"}
    return _profile(b"RGB ", tags)


def grey_profile(gamma: float) -> bytes:
    """Return a profile of grey samples."""
    return _profile(b"GRAY", {"wtpt": _xyz(D50), "kTRC": b"curv" + struct.pack(">IIHxx", 0, 1, round(gamma * 256))})


def in_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Return an image of sRGB in the colors of a profile."""
    target = ImageCms.ImageCmsProfile(BytesIO(profile))
    converted = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), target, outputMode="RGB")
    assert converted is not None
    return converted


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def _profile(space: bytes, tags: dict[str, bytes]) -> bytes:
    name = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78) + bytes(1)
    tags = {"desc": name, "cprt": b"text\0\0\0\0none\0\0\0\0", **tags}
    table, body = struct.pack(">I", len(tags)), b""
    for tag, data in tags.items():
        data += bytes(-len(data) % 4)
        table += tag.encode() + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data
    size = 128 + len(table) + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"test", 0x02400000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _xyz(D50)[8:]
    return head.ljust(128, b"\0") + table + body
