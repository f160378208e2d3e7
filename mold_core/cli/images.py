"""Files named on the command line, mostly images → the bytes that a request carries."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mold_core.errors import ValidationError

__all__ = ["read_file", "read_image", "source_fields"]

# The server's limit for a whole request; no image of 32 megapixels needs more.
_MAX_BYTES = 64 * 1024 * 1024


def source_fields(image: str | None, strength: float | None, mask: str | None) -> dict[str, Any]:
    """Return the request fields for the flags --image, --strength and --mask. Raises ValidationError."""
    if image is None:
        for flag, value in (("--strength", strength), ("--mask", mask)):
            if value is not None:
                raise ValidationError(f"{flag} needs an input image", field=flag[2:], hint="pass one with --image")
        return {}
    fields: dict[str, Any] = {"source_image": read_image(image, "--image")}
    if strength is not None:
        fields["strength"] = strength
    if mask is not None:
        if mask == image == "-":
            raise ValidationError("--image and --mask cannot both be standard input", field="mask")
        fields["mask_image"] = read_image(mask, "--mask")
    return fields


def read_image(path: str, flag: str) -> bytes:
    """Return the bytes of an image file, or of standard input for "-".

    Raises ValidationError, naming flag and file, for an unreadable file and for a damaged or unknown image.
    """
    data = read_file(path, flag)
    from mold_core.media.images import check_image

    check_image(data, name=f"{flag} {path!r}")  # the engine checks too, but cannot name the flag
    return data


def read_file(path: str, flag: str) -> bytes:
    """Return the bytes of a file, or of standard input for "-".

    Raises ValidationError, naming flag and file, for a file that is unreadable, empty or too large.
    """
    try:
        if path == "-":
            data = sys.stdin.buffer.read(_MAX_BYTES + 1) if sys.stdin is not None else b""
        else:
            with Path(path).open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValidationError(f"{flag} {path!r} cannot be read: {reason}", field=flag[2:]) from None
    if not data:
        raise ValidationError(f"{flag} {path!r} is empty", field=flag[2:])
    if len(data) > _MAX_BYTES:
        raise ValidationError(f"{flag} {path!r} is larger than {_MAX_BYTES // 2**20} MiB", field=flag[2:])
    return data
