"""Chains on disk: their requests by name, and the clips they are made of."""

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

# Ids are 32 hexadecimal digits; a file system refuses names that are too long.
_MAX_ID = 64


@attrs.frozen(kw_only=True)
class SavedChain:
    """A chain that was asked for: its name, when, its complete request."""

    id: str
    saved_at: float
    request: ChainRequest


@attrs.frozen
class ChainStore:
    """The folder of chains. Clips are kept until they are older than their time, also after the video is whole."""

    folder: Path

    @property
    def clips(self) -> Path:
        """The folder of clips; it is there."""
        folder = self.folder / "clips"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def save(self, chain: Chain) -> None:
        """Remember a chain's request under its name."""
        import json

        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._path(chain.id), json.dumps(to_json(chain.request)).encode())

    def read(self, id: str) -> ChainRequest:
        """Return the request of a chain. Raises ValidationError for a name that is not here."""
        path = self._path(id) if id.isascii() and id.isalnum() and len(id) <= _MAX_ID else None
        try:
            if path is not None:
                return from_text(ChainRequest, path.read_bytes())
        except FileNotFoundError:
            pass
        known = ", ".join(saved.id for saved in self.list()) or "none"
        raise ValidationError(f"there is no chain {shorten(id)} here", field="id", value=id, hint=f"known: {known}")

    def list(self) -> list[SavedChain]:
        """Return the chains that are here, the latest first."""
        return sorted(self._all(), key=lambda saved: -saved.saved_at)

    def keep(self, chain: Chain) -> None:
        """Let all that is here of a chain count as used now."""
        for work in chain.works:
            for path in attrs.astuple(work.files, recurse=False):
                with suppress(FileNotFoundError):
                    os.utime(path)

    def remove_older(self, age_s: float) -> int:
        """Remove requests and clips that nobody used for so long; return how many bytes that were."""
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
