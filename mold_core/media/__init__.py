"""Encode and decode images, video and audio with their metadata. Untrusted media is decoded within limits."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mold_core.media.formats import CONTENT_TYPES, EXTENSIONS, ImageFormat
from mold_core.media.images import DEFAULT_MAX_PIXELS, decode_image, decode_image_as_stored, encode_image
from mold_core.media.metadata import OutputMetadata, embed_metadata, read_metadata

if TYPE_CHECKING:
    from mold_core.media.color_profiles import from_srgb
    from mold_core.media.decoder import decode_clip, decode_sound, probe_sound, probe_video
    from mold_core.media.sound import resampled
    from mold_core.media.video_reading import VideoInfo

# Imported on first use, because they start processes or need PyAV.
_LAZY = {
    "VideoInfo": "video_reading",
    "decode_clip": "decoder",
    "decode_sound": "decoder",
    "from_srgb": "color_profiles",
    "probe_sound": "decoder",
    "probe_video": "decoder",
    "resampled": "sound",
}

__all__ = [
    "CONTENT_TYPES",
    "DEFAULT_MAX_PIXELS",
    "EXTENSIONS",
    "ImageFormat",
    "OutputMetadata",
    "VideoInfo",
    "decode_clip",
    "decode_image",
    "decode_image_as_stored",
    "decode_sound",
    "embed_metadata",
    "encode_image",
    "from_srgb",
    "probe_sound",
    "probe_video",
    "read_metadata",
    "resampled",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'mold_core.media' has no attribute {name!r}")
    return getattr(import_module(f"mold_core.media.{_LAZY[name]}"), name)
