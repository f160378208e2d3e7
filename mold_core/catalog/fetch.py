"""Downloads one file from the hub, resumes interrupted downloads, and hashes the bytes as they arrive."""

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

__all__ = ["RetryPolicy", "fetch", "with_retries"]

T = TypeVar("T")

# Seconds before the next attempt, after the first, second, … attempt in a row without any data.
_WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
_LONGEST_WAIT_S = 60.0
_TICK_S = 0.25


def fetch(
    hub: Hub, remote: RemoteFile, partial: Path, *, retries: RetryPolicy, report: Callable[[int], object], hashed: bool
) -> str | None:
    """Download a file to `partial`, flush it to disk, and return its sha256 (None unless `hashed`).

    Existing bytes in `partial` are taken as the start of the file. `report` is called with the number of downloaded
    bytes; an exception in it ends the download. After any failure `partial` keeps the downloaded bytes, unless the hub
    sent other bytes than it announced. Raises DownloadError, and OSError for the disk.
    """
    with _PartialFile(partial, remote, hashed) as file:
        file.hash_existing(lambda: report(file.size))
        while not file.complete:
            before = file.size
            try:
                with closing(hub.read(remote, file.size)) as chunks:
                    for position, chunk in chunks:
                        file.write(position, chunk)
                        report(file.size)
                if remote.size_bytes is None:
                    break
                lost = ConnectionLost(f"the connection ended after {file.size:,} of {remote.size_bytes:,} bytes")
            except ConnectionLost as error:
                lost = error
            if file.size > before:
                retries.reset()
            if not file.complete:
                retries.wait(lost)
        return file.finish()


def with_retries(attempt: Callable[[], T], retries: RetryPolicy) -> T:
    """Return the result of `attempt`, repeated as `retries` allows while the hub is reachable but fails."""
    while True:
        try:
            result = attempt()
        except ConnectionLost as lost:
            if not lost.reached:
                raise DownloadError(f"nothing can be downloaded: {lost}") from lost
            retries.wait(lost)
        else:
            retries.reset()
            return result


class RetryPolicy:
    """Retries a lost connection up to five times in a row, after growing delays.

    `announce` is called with a sentence for the user before each delay. `tick` is called four times a second during a
    delay; an exception in it ends the delay.
    """

    def __init__(self, announce: Callable[[str], object], tick: Callable[[], object]) -> None:
        self._announce = announce
        self._tick = tick
        self._failures = 0

    def reset(self) -> None:
        """Reset the count of failures, after data has arrived."""
        self._failures = 0

    def wait(self, lost: ConnectionLost) -> None:
        """Wait before the next attempt. Raises DownloadError after too many failures in a row."""
        if self._failures == len(_WAITS_S):
            raise DownloadError(
                f"{lost}, {self._failures + 1} times in a row", hint="downloaded bytes are kept: pull again to continue"
            ) from lost
        wait_s = min(max(_WAITS_S[self._failures], lost.wait_s), _LONGEST_WAIT_S)
        self._failures += 1
        self._announce(f"{lost}; retrying in {wait_s:.0f} s ({self._failures} of {len(_WAITS_S)})")
        end = time.monotonic() + wait_s
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _TICK_S))
            self._tick()


class _PartialFile:
    """A partially downloaded file, with the hash of its bytes."""

    def __init__(self, path: Path, remote: RemoteFile, hashed: bool) -> None:
        self.remote = remote
        self._path = path
        self._hashed = hashed
        self._digest: Any = hashlib.sha256()
        self._file = path.open("ab")
        self.size = self._file.tell()

    def __enter__(self) -> _PartialFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # On a full disk closing fails too, and must not hide the error of the write.
        with suppress(OSError):
            self._file.close()

    @property
    def complete(self) -> bool:
        return self.size == self.remote.size_bytes

    def hash_existing(self, tick: Callable[[], object]) -> None:
        expected = self.remote.size_bytes
        if self.size and (expected is None or self.size > expected):
            self._restart()  # without the expected size, nothing shows whether the file is complete
        elif self.size and self._hashed:
            update_digest(self._digest, self._path, tick)

    def write(self, position: int, chunk: bytes) -> None:
        if position != self.size:
            if position != 0:
                raise self._wrong(f"bytes from position {position:,} instead of {self.size:,}")
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
            f"the hub sent {what} for {self.remote.filename} of {self.remote.repo}; the download was deleted",
            hint="pull again; if you use a proxy, check it",
        )
