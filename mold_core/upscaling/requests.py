"""The request of the command line and of scripts to upscale an image or video on disk."""

from __future__ import annotations

from pathlib import Path

import attrs

from mold_core.wire import UpscaleRequest
from mold_core.wire.fields import wire_field

__all__ = ["FileUpscaleRequest", "is_video"]

_VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov"})


@attrs.frozen(kw_only=True)
class FileUpscaleRequest(UpscaleRequest):
    """Upscale the file `source` into the file `target`, without the whole result in memory.

    For `Engine.upscale` in this process only; the server does not accept it. The response has no bytes in `image.data`.
    A source named .mp4, .m4v or .mov is a video: each frame is upscaled, the audio is copied.
    """

    image: bytes = wire_field("Not used; the image is read from `source`.", default=b"")
    source: Path = attrs.field(converter=Path)
    target: Path = attrs.field(converter=Path)


def is_video(path: Path) -> bool:
    """Return whether a file, by its name, is a video that can be upscaled."""
    return path.suffix.lower() in _VIDEO_SUFFIXES
