"""Start a decoder process, run tasks in it, and kill it when it exceeds its limits or is cancelled."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Literal

import attrs

from mold_core.errors import CancelledError, MoldError, OutputError, ValidationError
from mold_core.media.decoder.main import ADDRESS_SPACE_BYTES
from mold_core.sandbox import environment

__all__ = ["DecoderProcess", "Part", "Task"]

log = logging.getLogger("mold.media")

_START_TIMEOUT_S = 120.0
_CLOSE_TIMEOUT_S = 2.0
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_MAX_PART_BYTES = 1 << 30
# Interval of memory checks where the system does not limit memory.
_WATCH_S = 0.05
# Whether a process can inherit descriptors. Elsewhere, files are passed by name.
_INHERITS = os.name == "posix"
_PROGRAM = "from mold_core.media.decoder.main import main; main()"

Ending = Literal["time", "memory", "cancelled"]


@attrs.frozen(kw_only=True)
class Task:
    """A task for a decoder: its name, bytes or a file, options, and time limits.

    `patience_s` limits the wait for a free decoder.
    """

    name: str
    source: bytes | Path
    options: Mapping[str, Any]
    cpu_s: float
    wall_s: float
    patience_s: float

    @property
    def subject(self) -> str:
        """The name of the file for error messages."""
        return self.options.get("name") or "the file"

    @property
    def field(self) -> str | None:
        """The field of the request that contained the file."""
        return self.options.get("name")


@attrs.frozen
class Part:
    """A part of a result: its bytes and their description."""

    data: bytes
    about: Mapping[str, Any]


class DecoderProcess:
    """A process that runs one task at a time. `watches_memory` is for systems without RLIMIT_AS."""

    def __init__(self, *, watches_memory: bool = sys.platform != "linux") -> None:
        self._messages: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._ending: Ending | None = None
        self._source, self._parts = _SharedFile(), _SharedFile()
        self._process = _spawn(self._source, self._parts)
        self._reader = threading.Thread(target=self._read, name="mold-decoder", daemon=True)
        self._reader.start()
        self.alive = True
        if not self._await_start():
            self.close()
            raise OutputError("the process that decodes media did not start")
        self._most_bytes = _resident_bytes(self.pid) + ADDRESS_SPACE_BYTES if watches_memory else None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def usable(self) -> bool:
        """Whether it can run a task."""
        return self.alive and self._ending is None and self._process.poll() is None

    def parts(self, task: Task, deadline: float) -> Generator[Part, None, Any]:
        """Run a task: yield the parts of its result and return the rest.

        Raises ValidationError for a file that is refused or exceeds a limit, CancelledError after `kill`.
        """
        self._hand_over(task)
        while True:
            message = self._next(deadline)
            if message is None:
                raise self._death(task)
            if "part" not in message:
                break
            reply = "stop"
            try:
                yield Part(self._parts.read(min(message["bytes"], _MAX_PART_BYTES)), message["part"])
                reply = "next"
            finally:
                self._send({reply: True})
                if reply == "stop":
                    self._finish(deadline)
        self._parts.empty()
        self._source.empty()
        if message.get("retire"):
            self.close()
        if "error" in message:
            raise _refusal(message)
        return message["done"]

    def kill(self, why: Ending = "cancelled") -> None:
        """Kill the process immediately. Thread-safe."""
        self._ending = self._ending or why
        self._process.kill()

    def close(self) -> None:
        """End the process, which is idle or dead, and release its resources."""
        self.alive = False
        self._process.kill()
        self._process.wait()
        self._reader.join(_CLOSE_TIMEOUT_S)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        self._source.close()
        self._parts.close()

    def _await_start(self) -> bool:
        try:
            return self._messages.get(timeout=_START_TIMEOUT_S) is not None
        except Empty:
            return False

    def _hand_over(self, task: Task) -> None:
        path = None
        if isinstance(task.source, Path):
            path = os.path.abspath(task.source)
        else:
            self._source.write(task.source)
        self._send({"task": task.name, "path": path, "options": dict(task.options), "cpu_s": task.cpu_s})

    def _next(self, deadline: float) -> dict[str, Any] | None:
        """Return the next message; None if the process has ended. May kill the process."""
        while True:
            left_s = deadline - monotonic()
            try:
                return self._messages.get(timeout=max(min(left_s, _WATCH_S) if self._most_bytes else left_s, 0.001))
            except Empty:
                pass
            if monotonic() >= deadline:
                self.kill("time")
            elif self._most_bytes and _resident_bytes(self.pid) > self._most_bytes:
                self.kill("memory")
            else:
                continue
            while self._messages.get() is not None:
                pass
            return None

    def _finish(self, deadline: float) -> None:
        """Wait until a stopped task has ended, so that the process can run others."""
        while (message := self._next(deadline)) is not None and "part" in message:
            self._send({"stop": True})
        if message is None or message.get("retire"):
            self.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        data = json.dumps(message).encode()
        assert self._process.stdin is not None
        with suppress(OSError):  # the process has ended; the next read detects it
            self._process.stdin.write(len(data).to_bytes(4, "big") + data)
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        pipe = self._process.stdout
        with suppress(OSError, ValueError):
            while len(head := pipe.read(4)) == 4:
                length = int.from_bytes(head, "big")
                if length > _MAX_MESSAGE_BYTES:
                    self.kill()
                    break
                self._messages.put(json.loads(pipe.read(length)))
        self._messages.put(None)

    def _death(self, task: Task) -> MoldError:
        self._process.wait()
        status = self._process.returncode
        log.info("the decoder of %s ended: %s", task.field or task.source, self._ending or f"status {status}")
        self.close()
        if self._ending == "cancelled":
            return CancelledError("reading media was cancelled")
        if self._ending == "time" or status == -_SIGXCPU:
            why = "takes too long to decode"
        elif self._ending == "memory":
            why = "takes too much memory to decode"
        else:
            why = "cannot be decoded: the decoder crashed"
        return ValidationError(f"{task.subject} {why}", field=task.field)


_SIGXCPU = 24


def _refusal(message: Mapping[str, Any]) -> MoldError:
    kind = OutputError if message.get("kind") == "output" else ValidationError
    return kind(str(message["error"]), field=message.get("field"), hint=message.get("hint"))


def _resident_bytes(pid: int) -> int:
    """Return the memory of a process; 0 if it is unknown."""
    try:
        import psutil

        return int(psutil.Process(pid).memory_info().rss)
    except Exception:  # psutil is not installed, or the process has ended
        return 0


class _SharedFile:
    """A file that two processes share: anonymous and in memory if the system supports it, else a temporary file."""

    def __init__(self) -> None:
        self._path: str | None = None
        if hasattr(os, "memfd_create"):
            self.descriptor = os.memfd_create("mold-media")
        elif _INHERITS:
            with tempfile.TemporaryFile() as file:
                self.descriptor = os.dup(file.fileno())
        else:
            self.descriptor, self._path = tempfile.mkstemp(prefix="mold-media-")

    @property
    def argument(self) -> str:
        """The argument that identifies the file to the other process."""
        return self._path or str(self.descriptor)

    @property
    def inherited(self) -> tuple[int, ...]:
        """The descriptors that the other process inherits."""
        return () if self._path else (self.descriptor,)

    def write(self, data: bytes) -> None:
        os.ftruncate(self.descriptor, 0)
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        view, place = memoryview(data), 0
        while place < len(view):
            place += os.write(self.descriptor, view[place:])

    def read(self, count: int) -> bytes:
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        pieces, left = [], count
        while left and (piece := os.read(self.descriptor, left)):
            pieces.append(piece)
            left -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def empty(self) -> None:
        os.ftruncate(self.descriptor, 0)

    def close(self) -> None:
        if self.descriptor < 0:
            return
        os.close(self.descriptor)
        self.descriptor = -1
        if self._path:
            with suppress(OSError):
                os.unlink(self._path)


def _spawn(*shared: _SharedFile) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _PROGRAM, *(file.argument for file in shared)],
        pass_fds=[descriptor for file in shared for descriptor in file.inherited],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
