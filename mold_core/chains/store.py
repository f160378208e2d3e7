"""The folder of chains: their requests by id, and their clips."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import attrs

from mold_core.chains.chain import Chain
from mold_core.errors import MoldError, ValidationError
from mold_core.files import write_whole
from mold_core.wire import ChainRequest
from mold_core.wire.convert import from_text, to_json
from mold_core.wire.fields import shorten

__all__ = ["ChainStore", "SavedChain"]

# Ids are 16 hexadecimal digits. Longer names from clients may exceed the limit of a file system.
_MAX_ID = 64


@attrs.frozen(kw_only=True)
class SavedChain:
    """A stored chain: its id, the time of its last request in seconds since 1970, and its completed request."""

    id: str
    saved_at: float
    request: ChainRequest


@attrs.frozen
class ChainStore:
    """The folder of chains. Clips are kept until they expire, also after the video is complete."""

    folder: Path

    @property
    def clips(self) -> Path:
        """The folder of clips, which is created if it is missing."""
        folder = self.folder / "clips"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def save(self, chain: Chain) -> None:
        """Store a chain's request under its id."""
        import json

        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._path(chain.id), json.dumps(to_json(chain.request)).encode())

    def read(self, id: str) -> ChainRequest:
        """Return the request of a chain. Raises ValidationError for an unknown id."""
        path = self._path(id) if id.isascii() and id.isalnum() and len(id) <= _MAX_ID else None
        try:
            if path is not None:
                return from_text(ChainRequest, path.read_bytes())
        except FileNotFoundError:
            pass
        known = ", ".join(saved.id for saved in self.list()) or "none"
        raise ValidationError(f"there is no chain {shorten(id)}", field="id", value=id, hint=f"known: {known}")

    def list(self) -> list[SavedChain]:
        """Return the stored chains, newest first."""
        return sorted(self._all(), key=lambda saved: -saved.saved_at)

    def keep(self, chain: Chain) -> None:
        """Set the time of last use of all files of a chain to now."""
        for work in chain.works:
            for path in attrs.astuple(work.files, recurse=False):
                with suppress(FileNotFoundError):
                    os.utime(path)

    def remove_older(self, age_s: float) -> int:
        """Delete requests and clips that were not used for `age_s` seconds. Returns the number of freed bytes."""
        oldest, freed = time.time() - age_s, 0
        for path in [*self.folder.glob("*.json"), *self.folder.glob("clips/*")]:
            try:
                about = path.stat()
                if about.st_mtime < oldest:
                    path.unlink()
                    freed += about.st_size
            except FileNotFoundError:
                continue
        return freed

    def _all(self) -> Iterator[SavedChain]:
        for path in self.folder.glob("*.json"):
            try:
                request, saved_at = from_text(ChainRequest, path.read_bytes()), path.stat().st_mtime
            except (OSError, MoldError):
                continue
            yield SavedChain(id=path.stem, saved_at=saved_at, request=request)

    def _path(self, id: str) -> Path:
        return self.folder / f"{id}.json"
