"""File formats of results: tables of their content types and file extensions."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from mold_core.wire.generate import OutputFormat

__all__ = ["CONTENT_TYPES", "EXTENSIONS", "ImageFormat"]

ImageFormat = Literal["png", "jpeg", "webp"]

CONTENT_TYPES: Mapping[OutputFormat, str] = MappingProxyType(
    {
        "png": "image/png",
        "jpeg": "image/jpeg",
        "webp": "image/webp",
        "gif": "image/gif",
        "apng": "image/apng",
        "mp4": "video/mp4",
    }
)

# An APNG is a valid PNG, so it has the same extension.
EXTENSIONS: Mapping[OutputFormat, str] = MappingProxyType(
    {"png": "png", "jpeg": "jpeg", "webp": "webp", "gif": "gif", "apng": "png", "mp4": "mp4"}
)
