"""An image or video on this machine's disk to be enlarged: what the command line and scripts ask for."""

from __future__ import annotations

from pathlib import Path

import attrs

from mold_core.wire import UpscaleRequest
from mold_core.wire.fields import wire_field

__all__ = ["FileUpscaleRequest", "is_video"]

_VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov"})


@attrs.frozen(kw_only=True)
class FileUpscaleRequest(UpscaleRequest):
    """Enlarge the file `source` into the file `target`, without ever holding the whole result in memory.

    For `Engine.upscale` in this process only: it never comes from the network. The response then has no bytes in
    `image.data`. A source named .mp4, .m4v or .mov is a video: each frame is enlarged, the sound copied.
    """

    image: bytes = wire_field("Not used; the image is read from `source`.", default=b"")
    source: Path = attrs.field(converter=Path)
    target: Path = attrs.field(converter=Path)


def is_video(path: Path) -> bool:
    """Say whether a file, by its name, is a video that can be enlarged."""
    return path.suffix.lower() in _VIDEO_SUFFIXES
