"""Results as content of MCP: images that a language model can look at, and links to the files."""

from __future__ import annotations

import base64
import mimetypes
from io import BytesIO

from mcp.types import ContentBlock, ImageContent, ResourceLink, TextContent

from mold_core.media.images import decode_image

__all__ = ["GALLERY", "image_content", "link_to", "media_type", "text"]

GALLERY = "mold://gallery/"

# Hosts refuse results of more than about a megabyte, and models see no more than so many pixels.
_MAX_BYTES = 500_000
_MAX_SIDE = 1024
_JPEG_QUALITY = 85


def text(words: str) -> ContentBlock:
    """Return text."""
    return TextContent(type="text", text=words)


def image_content(data: bytes, format: str) -> ContentBlock:
    """Return an image; a large file as a smaller JPEG, since the link leads to the file."""
    if len(data) > _MAX_BYTES:
        image = decode_image(data, max_pixels=2**31).convert("RGB")
        image.thumbnail((_MAX_SIDE, _MAX_SIDE))
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
        data, format = buffer.getvalue(), "jpeg"
    return ImageContent(type="image", data=base64.b64encode(data).decode(), mime_type=f"image/{format}")


def link_to(name: str) -> ContentBlock:
    """Return the link to a result in the gallery."""
    return ResourceLink(type="resource_link", name=name, uri=f"{GALLERY}{name}", mime_type=media_type(name))


def media_type(name: str) -> str:
    """Return the media type of a file by its name."""
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
