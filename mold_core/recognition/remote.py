"""Recognise a file on the hub by its first bytes, before the whole file is downloaded."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

from mold_core.catalog.hub import ConnectionLost, Hub, RemoteFile
from mold_core.errors import DownloadError
from mold_core.recognition.files import recognise
from mold_core.recognition.known import Knowledge
from mold_core.recognition.recognised import Recognised

__all__ = ["recognise_remote"]

# Headers of safetensors state their length. Those of GGUF files with a tokenizer have several megabytes.
_LONGEST_HEADER = 2**24
_GGUF_BYTES = 2**23


def recognise_remote(hub: Hub, remote: RemoteFile, knowledge: Knowledge) -> Recognised | None:
    """Return what a file on the hub is; None if its start is not sufficient or not available."""
    try:
        head = _beginning(hub, remote)
    except (DownloadError, ConnectionLost):
        return None
    if not head or remote.size_bytes is None:
        return None
    with tempfile.TemporaryDirectory(prefix="mold-") as folder:
        path = Path(folder, Path(remote.filename).name)
        try:
            with path.open("wb") as file:
                file.write(head)
                file.truncate(max(len(head), remote.size_bytes))  # sparse: it takes no disk space
        except (OSError, OverflowError):  # the disk is full, or the size fits no file
            return None
        found = recognise(path, knowledge)
    return found if found.networks and not found.problem else None


def _beginning(hub: Hub, remote: RemoteFile) -> bytes:
    """Return the header of a file, and as few additional bytes as possible."""
    data = bytearray()
    with closing(hub.read(remote)) as pieces:
        for _position, piece in pieces:
            data += piece
            if len(data) >= _needed(data):
                break
    return bytes(data)


def _needed(data: bytearray) -> int:
    if data[:4] == b"GGUF":
        return _GGUF_BYTES
    if len(data) < 9:
        return 9
    length = int.from_bytes(data[:8], "little")
    return 8 + length if data[8:9] == b"{" and length <= _LONGEST_HEADER else 0
