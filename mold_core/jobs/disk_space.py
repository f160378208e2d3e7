"""How much room the result of a request takes on a disk, at most."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mold_core.disk import free_bytes
from mold_core.errors import InsufficientStorageError

__all__ = ["check_room", "result_bytes_of"]

# For what is written beside the images: rows, their log, names.
_OVERHEAD_BYTES = 64 * 1024

# H.264, GIF and WebP take less than a tenth of the pixels; noise may take more, and is no video.
_VIDEO_SHARE = 0.1

# An upscaler makes an image up to four times as wide and as high.
_ENLARGED = 16


def result_bytes_of(request: Any) -> int:
    """Return how many bytes the files that a complete request asks for have, at most."""
    width, height = getattr(request, "width", None), getattr(request, "height", None)
    frames = getattr(request, "frames", None) or getattr(request, "total_frames", None)
    if not (isinstance(width, int) and isinstance(height, int)):
        return _ENLARGED * len(getattr(request, "image", None) or b"")
    one = width * height * 3
    if frames:
        return int(one * frames * _VIDEO_SHARE)
    larger = _ENLARGED if getattr(request, "upscale_model", None) else 1
    return one * larger * (getattr(request, "batch_size", None) or 1)


def check_room(request: Any, folders: Sequence[Path]) -> None:
    """Raise InsufficientStorageError if a disk has no room for a result in each of its folders."""
    needed = result_bytes_of(request) * 4 // 3 + _OVERHEAD_BYTES  # results are kept as base64
    by_disk: dict[int, int] = {}
    for folder in folders:
        try:
            existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
            disk, free = existing.stat().st_dev, free_bytes(existing)
        except OSError:
            continue  # what is wrong with it is told when the result is saved
        by_disk[disk] = by_disk.get(disk, 0) + needed
        if free < by_disk[disk]:
            raise InsufficientStorageError(
                f"the disk of the server has no room for the result: it may take {by_disk[disk] / 1e6:.1f} MB, "
                f"{free / 1e6:.1f} MB are free",
                hint="free some space, or ask for a smaller result",
            )
