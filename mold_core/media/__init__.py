"""Pixels to bytes and back: images, and the metadata inside them."""

from mold_core.media.formats import CONTENT_TYPES, EXTENSIONS, ImageFormat
from mold_core.media.images import DEFAULT_MAX_PIXELS, decode_image, encode_image
from mold_core.media.metadata import OutputMetadata, embed_metadata, read_metadata

__all__ = [
    "CONTENT_TYPES",
    "DEFAULT_MAX_PIXELS",
    "EXTENSIONS",
    "ImageFormat",
    "OutputMetadata",
    "decode_image",
    "embed_metadata",
    "encode_image",
    "read_metadata",
]
