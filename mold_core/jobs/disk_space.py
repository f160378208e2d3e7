"""An upper bound of the disk space that the result of a request needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mold_core.disk import free_bytes
from mold_core.errors import InsufficientStorageError

__all__ = ["check_room", "result_bytes_of"]

# Space for data other than images: database rows, the write-ahead log, file names.
_OVERHEAD_BYTES = 64 * 1024

# H.264, GIF and WebP need less than a tenth of the raw pixels. Pure noise may need more, but is not a usual video.
_VIDEO_SHARE = 0.1

# An upscaler enlarges width and height up to 4x, so the number of pixels up to 16x.
_ENLARGED = 16


def result_bytes_of(request: Any) -> int:
    """Return the maximum total size in bytes of the files of a complete request."""
    width, height = getattr(request, "width", None), getattr(request, "height", None)
    frames = getattr(request, "frames", None) or getattr(request, "total_frames", None)
    if not (isinstance(width, int) and isinstance(height, int)):
        return _ENLARGED * len(getattr(request, "image", None) or b"")
    image_bytes = width * height * 3
    if frames:
        return int(image_bytes * frames * _VIDEO_SHARE)
    enlarged = _ENLARGED if getattr(request, "upscale_model", None) else 1
    return image_bytes * enlarged * (getattr(request, "batch_size", None) or 1)


def check_room(request: Any, folders: Sequence[Path]) -> None:
    """Raise InsufficientStorageError if a disk has not enough space for a copy of the result in each of its folders."""
    needed = result_bytes_of(request) * 4 // 3 + _OVERHEAD_BYTES  # results are kept as base64
    by_disk: dict[int, int] = {}
    for folder in folders:
        try:
            existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
            disk, free = existing.stat().st_dev, free_bytes(existing)
        except OSError:
            continue  # saving the result reports the error of this folder
        by_disk[disk] = by_disk.get(disk, 0) + needed
        if free < by_disk[disk]:
            raise InsufficientStorageError(
                f"the disk of the server has no room for the result: it may take {by_disk[disk] / 1e6:.1f} MB, "
                f"{free / 1e6:.1f} MB are free",
                hint="free some space, or ask for a smaller result",
            )
