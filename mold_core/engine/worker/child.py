"""What runs in a worker process, which `mold_core.engine.worker.process` starts.

It gets calls over a socket and answers with events and results. A thread reads the socket, shows that the process
lives, and ends it the moment its parent is gone. What is cancelled stands in the page of memory that both share
(`mold_core.engine.worker.pulse`), where the work leaves signs of progress.

To here come a Boot and then the tuples ("call", number, verb, pickled arguments) and ("close",).
From here come ("ready", DeviceInfo), ("log", logger, level, text), ("event", number, event), ("step", number, step,
total, ms) and ("done" or "failed", number, WorkerState) followed by the pickled result or error as bare bytes; where
it is large these are empty, and it is in the file that both share.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

import attrs

from mold_core.engine.worker.local import LocalWorker
from mold_core.engine.worker.pulse import Pulse
from mold_core.engine.worker.scheduler_slice import request_scheduler_slice
from mold_core.engine.worker.shared_file import LARGE_BYTES, write_shared
from mold_core.errors import CancelledError, InferenceError, MoldError
from mold_core.jobs.batch import own_error
from mold_core.placement.device import DeviceInfo
from mold_core.plugins import PluginSource, load_plugins
from mold_core.settings import Settings
from mold_core.wire import ProgressEvent

__all__ = ["Boot", "WorkerState", "main"]

log = logging.getLogger("mold.worker")

_PR_SET_PDEATHSIG = 1
_BEAT_S = 0.5


@attrs.frozen(kw_only=True)
class Boot:
    """What a worker process is to be."""

    device: str
    settings: Settings
    source: PluginSource
    parent: int
    log_level: int


@attrs.frozen(kw_only=True)
class WorkerState:
    """What the parent wants to know after each call."""

    loaded: frozenset[str]
    device: DeviceInfo


def main() -> None:
    """Run until the parent says so, or is gone."""
    # Ctrl-C and a service manager signal the whole group; the parent decides when the work ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    boot: Boot = connection.recv()
    _end_with(boot.parent)
    request_scheduler_slice(None)  # before there are threads: each takes over what the one before it asked for
    process = _Process(connection, int(sys.argv[2]), Pulse(int(sys.argv[3])))
    logging.basicConfig(level=boot.log_level, handlers=[_Handler(process)])
    plugins = load_plugins(boot.source.names, extra=boot.source.extra)
    worker = LocalWorker(boot.device, boot.settings, plugins)
    threading.Thread(target=process.read, name="mold-read", daemon=True).start()
    process.look_at(worker)
    process.send(("ready", process.device))
    for family in plugins.families.values():
        _warm(family)
    process.serve(worker)


def _end_with(parent: int) -> None:
    """End when the parent does, also while a library keeps the interpreter from running."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _warm(family: Any) -> None:
    try:
        family.warm()
    except Exception:
        log.exception("family %s could not prepare for its models", family.name)


class _Process:
    """The two ends of the work here: a thread that reads messages, and one that runs calls."""

    def __init__(self, connection: Connection, shared: int, pulse: Pulse) -> None:
        self._connection = connection
        self._shared = shared
        self.pulse = pulse
        self._sending = threading.Lock()
        self._calls: SimpleQueue[tuple[int, str, bytes] | None] = SimpleQueue()
        self.device = DeviceInfo(name="")  # as it last was

    def send(self, message: tuple[Any, ...], data: bytes | None = None) -> None:
        """Send a message, with bytes after it; end if nobody is there."""
        try:
            with self._sending:
                self._connection.send(message)
                if data is not None and len(data) < LARGE_BYTES:
                    self._connection.send_bytes(data)
                elif data is not None:
                    # The parent has read what was there before it called again.
                    write_shared(self._shared, data)
                    self._connection.send_bytes(b"")
        except OSError:
            os._exit(0)

    def read(self) -> None:
        """Read messages until the parent is gone, and end with it; between them show that the process lives."""
        while True:
            try:
                while not self._connection.poll(_BEAT_S):
                    self.pulse.beat()
                message = self._connection.recv()
            except (EOFError, OSError):
                os._exit(0)
            self.pulse.beat()
            self._calls.put(message[1:] if message[0] == "call" else None)

    def serve(self, worker: LocalWorker) -> None:
        """Run calls in order."""
        while (call := self._calls.get()) is not None:
            number, verb, arguments = call
            self.pulse.begin(number)
            try:
                word, data = "done", pickle.dumps(self._run(worker, number, verb, arguments))
            except Exception as error:
                word, data = "failed", pickle.dumps(_picklable(error))
            failed = self.look_at(worker)
            state = WorkerState(loaded=worker.loaded(), device=self.device)
            self.send((word, number, state), data)
            if failed is not None:
                log.error("the device cannot be used any more, the worker ends: %s", failed)
                os._exit(1)  # closing would only fail, too
            del data, call, arguments  # they may be large, and the next call may be long in coming
        worker.close()

    def look_at(self, worker: LocalWorker) -> Exception | None:
        """Ask how the device is; return why it does not answer: after an illegal access CUDA fails in every call."""
        try:
            self.device = worker.device_info()
        except Exception as error:
            return error
        return None

    def _run(self, worker: LocalWorker, number: int, verb: str, arguments: bytes) -> Any:
        wants_run, values = pickle.loads(arguments)
        if wants_run:
            run = _Run(self, number)
            run.check()
            values = (*values, run)
        return getattr(worker, verb)(*values)


class _Run:
    """The run of one call: what is reported goes to the parent, who also says when it ends."""

    def __init__(self, process: _Process, number: int) -> None:
        self._process = process
        self._number = number

    def report(self, event: ProgressEvent) -> None:
        self._process.pulse.progress()
        self._process.send(("event", self._number, event))

    def step(self, step: int, total: int, elapsed_ms: int) -> None:
        self._process.send(("step", self._number, step, total, elapsed_ms))
        self.check()

    def check(self) -> None:
        self._process.pulse.progress()
        if self._process.pulse.cancelled == self._number:
            raise CancelledError("the job was cancelled")


class _Handler(logging.Handler):
    """Hands log records to the parent."""

    def __init__(self, process: _Process) -> None:
        super().__init__()
        self._process = process

    def emit(self, record: logging.LogRecord) -> None:
        self._process.send(("log", record.name, record.levelno, self.format(record)))


def _picklable(error: Exception) -> MoldError:
    """Return the error as one that travels; its cause stays here and goes to the log."""
    reported = own_error(error)
    if reported.__cause__ is not None:
        log.warning("%s", reported, exc_info=reported.__cause__)
    try:
        pickle.loads(pickle.dumps(reported))
    except Exception:
        return InferenceError("%s", reported)
    return reported
