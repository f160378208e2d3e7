"""The main program of the decoder process, which `mold_core.media.decoder.process` starts.

Messages on standard input and output are JSON, preceded by a length of four bytes. The process receives {"task", "path"
or null, "options", "cpu_s"}, and {"next"} or {"stop"} for each part. It sends {"ready"}, {"part", "bytes"} for each
part, whose bytes are in the shared file, and {"done", "retire"} or {"error", "field", "hint", "kind"}.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import threading
from collections.abc import Mapping
from queue import SimpleQueue
from typing import Any, BinaryIO

import attrs

from mold_core.errors import MoldError, OutputError, ValidationError
from mold_core.media.decoder.tasks import TASKS
from mold_core.sandbox import limit_memory, limit_processor_time, memory_bytes

__all__ = ["ADDRESS_SPACE_BYTES", "main"]

# In addition to the memory of the process before its first task. A frame of 32 megapixels and four reference frames of
# H.264 take 250 MB, a still image of that size 270 MB.
ADDRESS_SPACE_BYTES = 512 * 1024 * 1024
_MAX_TASKS = 2_000
_RETIRE_BYTES = 192 * 1024 * 1024


class _Stopped(BaseException):
    """The remaining parts are not needed."""


def main() -> None:
    """Run tasks until the parent closes the input or exits."""
    # Ctrl-C and a service manager signal the whole group; the parent decides when the work ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Output of libraries must not interleave with the messages.
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    source, parts = (_opened(argument) for argument in sys.argv[1:3])
    helper = _Helper(pipe, source, parts)
    threading.Thread(target=helper.read, name="mold-read", daemon=True).start()
    _import_decoders()
    limit_memory(ADDRESS_SPACE_BYTES)
    helper.send({"ready": os.getpid()})
    helper.serve()


def _opened(argument: str) -> int:
    """Return the inherited descriptor, or that of a file by its name."""
    return int(argument) if argument.isdigit() else os.open(argument, os.O_RDWR | getattr(os, "O_BINARY", 0))


def _import_decoders() -> None:
    from PIL import GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401

    import mold_core.media.images

    try:
        import numpy  # noqa: F401

        import mold_core.media.sound
        import mold_core.media.video_reading

        mold_core.media.video_reading.pyav()
        from av import AudioResampler  # noqa: F401
    except (ImportError, OutputError):
        return  # a task with a video then reports it


@attrs.define(eq=False)
class _Helper:
    """Reads messages in a separate thread, and exits with the parent. Tasks run in the main thread."""

    _pipe: BinaryIO
    _source: int
    _parts: int
    _messages: SimpleQueue[dict[str, Any]] = attrs.field(factory=SimpleQueue, init=False)
    _part_is_there: bool = attrs.field(default=False, init=False)

    def read(self) -> None:
        while True:
            head = _read(4)
            body = _read(int.from_bytes(head, "big")) if head else b""
            if not body:
                os._exit(0)
            self._messages.put(json.loads(body))

    def send(self, message: Mapping[str, Any]) -> None:
        data = json.dumps(message).encode()
        try:
            self._pipe.write(len(data).to_bytes(4, "big") + data)
            self._pipe.flush()
        except OSError:
            os._exit(0)

    def serve(self) -> None:
        for number in range(1, _MAX_TASKS + 1):
            message = self._messages.get()
            answer = self._answer(message)
            if self._part_is_there:
                self._await_reply()
            answer["retire"] = number == _MAX_TASKS or _has_grown()
            self.send(answer)

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        limit_processor_time(message["cpu_s"])
        name = message["options"].get("name")
        try:
            with self._file(message["path"]) as file:
                return {"done": TASKS[message["task"]](file, self._emit, **message["options"])}
        except _Stopped:
            return {"done": None}
        except MoldError as error:
            kind = "output" if isinstance(error, OutputError) else "validation"
            return {"error": error.message, "field": error.field, "hint": error.hint, "kind": kind}
        except MemoryError:
            return {"error": f"{name or 'the file'} takes too much memory to decode", "field": name, "hint": None}
        except Exception as error:  # decoders raise almost any exception for malicious bytes
            print(f"{message['task']}: {error!r}", file=sys.stderr, flush=True)
            return {"error": f"{name or 'the file'} is damaged", "field": name, "hint": None}

    def _file(self, path: str | None) -> BinaryIO:
        if path is None:
            file = os.fdopen(os.dup(self._source), "rb")
            file.seek(0)
            return file
        try:
            descriptor = os.open(
                path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | _BINARY
            )
        except OSError as error:
            raise ValidationError("the file cannot be opened") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ValidationError("not a regular file")
        return os.fdopen(descriptor, "rb")

    def _emit(self, data: bytes, about: Mapping[str, Any]) -> None:
        """Send a part to the parent, after it has read the previous one."""
        if self._part_is_there and "stop" in self._await_reply():
            raise _Stopped
        view, place = memoryview(data), 0
        os.lseek(self._parts, 0, os.SEEK_SET)
        while place < len(view):
            place += os.write(self._parts, view[place:])
        self._part_is_there = True
        self.send({"part": dict(about), "bytes": len(view)})

    def _await_reply(self) -> dict[str, Any]:
        """Return the parent's reply to the current part; each part gets one reply."""
        self._part_is_there = False
        return self._messages.get()


_BINARY = getattr(os, "O_BINARY", 0)


def _has_grown() -> bool:
    """Return whether the process still uses memory that other tasks need."""
    if sys.platform != "linux":
        return False
    return memory_bytes()[1] > _RETIRE_BYTES


def _read(count: int) -> bytes:
    """Return `count` bytes of standard input; none if it ends before."""
    data = b""
    while len(data) < count:
        piece = os.read(0, count - len(data))
        if not piece:
            return b""
        data += piece
    return data
