"""One file from the hub to the disk: it goes on where it stopped, and is hashed on the way."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from mold_core.catalog.hub import ConnectionLost, Hub, RemoteFile
from mold_core.catalog.verify import update_digest
from mold_core.errors import DownloadError

__all__ = ["Patience", "fetch", "patiently"]

T = TypeVar("T")

# Seconds before asking again, after the first, second, … attempt in a row that brought nothing.
_WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
_LONGEST_WAIT_S = 60.0
_TICK_S = 0.25


def fetch(
    hub: Hub, remote: RemoteFile, part: Path, *, patience: Patience, report: Callable[[int], object], hashed: bool
) -> str | None:
    """Leave all bytes of a file at `part`, flushed to the disk, and return their sha256 (None unless `hashed`).

    What `part` holds already is taken for the beginning of the file. `report` is told how many bytes are there; what it
    raises ends the work. Whatever happens, `part` keeps what has come, except when the hub sent other bytes than it
    announced. Raises DownloadError, and OSError of the disk.
    """
    with _Part(part, remote, hashed) as here:
        here.read_what_is_here(lambda: report(here.size))
        while not here.complete:
            before = here.size
            try:
                with closing(hub.read(remote, here.size)) as pieces:
                    for position, chunk in pieces:
                        here.put(position, chunk)
                        report(here.size)
                if remote.size_bytes is None:
                    break
                lost = ConnectionLost(f"the connection ended after {here.size:,} of {remote.size_bytes:,} bytes")
            except ConnectionLost as error:
                lost = error
            if here.size > before:
                patience.renew()
            if not here.complete:
                patience.spend(lost)
        return here.finish()


def patiently(attempt: Callable[[], T], patience: Patience) -> T:
    """Return what `attempt` returns, asking again while the hub is there but does not answer properly."""
    while True:
        try:
            answer = attempt()
        except ConnectionLost as lost:
            if not lost.reached:
                raise DownloadError(f"nothing can be fetched: {lost}") from lost
            patience.spend(lost)
        else:
            patience.renew()
            return answer


class Patience:
    """How often a lost connection is taken up again: five times in a row, with growing pauses.

    `announce` gets a sentence for people at each loss; `tick` is called four times a second while waiting, and what it
    raises ends the wait.
    """

    def __init__(self, announce: Callable[[str], object], tick: Callable[[], object]) -> None:
        self._announce = announce
        self._tick = tick
        self._failures = 0

    def renew(self) -> None:
        """Count from the start again: something has come."""
        self._failures = 0

    def spend(self, lost: ConnectionLost) -> None:
        """Wait for the next attempt. Raises DownloadError when there have been too many."""
        if self._failures == len(_WAITS_S):
            raise DownloadError(
                f"{lost}, {self._failures + 1} times in a row", hint="what has come is kept: pull again to go on"
            ) from lost
        wait_s = min(max(_WAITS_S[self._failures], lost.wait_s), _LONGEST_WAIT_S)
        self._failures += 1
        self._announce(f"{lost}; trying again in {wait_s:.0f} s ({self._failures} of {len(_WAITS_S)})")
        end = time.monotonic() + wait_s
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _TICK_S))
            self._tick()


class _Part:
    """The beginning of a file on disk, with its hash so far."""

    def __init__(self, path: Path, remote: RemoteFile, hashed: bool) -> None:
        self.remote = remote
        self._path = path
        self._hashed = hashed
        self._digest: Any = hashlib.sha256()
        self._file = path.open("ab")
        self.size = self._file.tell()

    def __enter__(self) -> _Part:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # On a full disk closing fails as well, and must not hide the error that says so.
        with suppress(OSError):
            self._file.close()

    @property
    def complete(self) -> bool:
        return self.size == self.remote.size_bytes

    def read_what_is_here(self, tick: Callable[[], object]) -> None:
        expected = self.remote.size_bytes
        if self.size and (expected is None or self.size > expected):
            self._restart()  # without a size there is no telling whether it is whole already
        elif self.size and self._hashed:
            update_digest(self._digest, self._path, tick)

    def put(self, position: int, chunk: bytes) -> None:
        if position != self.size:
            if position != 0:
                raise self._wrong(f"bytes from {position:,} on instead of {self.size:,}")
            self._restart()
        if self.remote.size_bytes is not None and self.size + len(chunk) > self.remote.size_bytes:
            raise self._wrong(f"more than the {self.remote.size_bytes:,} bytes it announced")
        try:
            self._file.write(chunk)
        except OSError as error:
            error.filename = str(self._path)
            raise
        if self._hashed:
            self._digest.update(chunk)
        self.size += len(chunk)

    def finish(self) -> str | None:
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._digest.hexdigest() if self._hashed else None

    def _restart(self) -> None:
        self._file.truncate(0)
        self._digest = hashlib.sha256()
        self.size = 0

    def _wrong(self, what: str) -> DownloadError:
        self._path.unlink()
        return DownloadError(
            f"the hub sent {what} for {self.remote.filename} of {self.remote.repo}; what came was deleted",
            hint="pull again, and look at the proxy if there is one",
        )
