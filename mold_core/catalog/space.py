"""Checks free disk space before a download."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from mold_core.errors import OutputError

__all__ = ["check_space", "in_words", "same_disk"]


def check_space(what: str, needs: Iterable[tuple[Path, int]]) -> None:
    """Raise OutputError if a disk has too little free space for the (folder, bytes) pairs in `needs`.

    Folders need not exist yet. Pairs on the same disk are added up. `what` is the subject of the error message.
    """
    totals: dict[int, int] = {}
    folders: dict[int, Path] = {}
    for folder, size_bytes in needs:
        device = _device(folder)
        folders.setdefault(device, _nearest(folder))
        totals[device] = totals.get(device, 0) + size_bytes
    for device, need in totals.items():
        free = shutil.disk_usage(folders[device]).free
        if need > free:
            raise OutputError(
                "%s needs %s on the disk of %s, but only %s are free",
                what,
                in_words(need),
                folders[device],
                in_words(free),
                field="models_dir",
                value=str(folders[device]),
                hint="free disk space, or set MOLD_MODELS_DIR to a folder on another disk",
            )


def same_disk(one: Path, other: Path) -> bool:
    """Return whether two folders are on the same disk. They need not exist yet."""
    return _device(one) == _device(other)


def in_words(size_bytes: int) -> str:
    """Return a size as text, in GB of 10^9 bytes or in MB."""
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:,.1f} MB"


def _nearest(folder: Path) -> Path:
    """Return the folder, or its nearest existing parent."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _device(folder: Path) -> int:
    return _nearest(folder).stat().st_dev
