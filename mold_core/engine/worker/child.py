"""The program of a worker process, which `mold_core.engine.worker.process` starts.

It receives calls over a socket and sends events and results back. A thread reads the socket, writes the heartbeat, and
exits the process as soon as the parent has ended. Both share a page of memory (`mold_core.engine.worker.pulse`): the
parent writes there which call is cancelled, and the work records its progress there.

The parent sends a Boot and then the tuples ("call", number, verb, pickled arguments) and ("close",).
The worker sends ("ready", DeviceInfo), ("log", logger, level, text), ("event", number, event), ("step", number, step,
total, ms) and ("done" or "failed", number, WorkerState) followed by the pickled result or error as raw bytes. For a
large result these bytes are empty, and the result is in the shared file.
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
    """The configuration of a worker process."""

    device: str
    settings: Settings
    source: PluginSource
    parent: int
    log_level: int


@attrs.frozen(kw_only=True)
class WorkerState:
    """The state that a worker process reports after each call."""

    loaded: frozenset[str]
    device: DeviceInfo


def main() -> None:
    """Run until the parent sends "close" or has ended."""
    # Ctrl-C and service managers signal the whole process group; the parent decides when the work ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    boot: Boot = connection.recv()
    _end_with(boot.parent)
    request_scheduler_slice(None)  # before any thread starts: a thread inherits the slice of its creator
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
    """End with the parent, even while a library blocks the interpreter."""
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
    """The worker's side of the connection: one thread reads messages, another runs calls."""

    def __init__(self, connection: Connection, shared: int, pulse: Pulse) -> None:
        self._connection = connection
        self._shared = shared
        self.pulse = pulse
        self._sending = threading.Lock()
        self._calls: SimpleQueue[tuple[int, str, bytes] | None] = SimpleQueue()
        self.device = DeviceInfo(name="")  # as last measured

    def send(self, message: tuple[Any, ...], data: bytes | None = None) -> None:
        """Send a message, optionally followed by bytes; exit if the parent has ended."""
        try:
            with self._sending:
                self._connection.send(message)
                if data is not None and len(data) < LARGE_BYTES:
                    self._connection.send_bytes(data)
                elif data is not None:
                    # The parent has read the previous content before it sent this call.
                    write_shared(self._shared, data)
                    self._connection.send_bytes(b"")
        except OSError:
            os._exit(0)

    def read(self) -> None:
        """Read messages until the parent has ended, then exit; write the heartbeat in between."""
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
                os._exit(1)  # closing would fail too
            del data, call, arguments  # they may be large, and the next call may come much later
        worker.close()

    def look_at(self, worker: LocalWorker) -> Exception | None:
        """Update `device`; return the error if that fails: after an illegal access, every CUDA call fails."""
        try:
            self.device = worker.device_info()
        except Exception as error:
            return error
        return None

    def _run(self, worker: LocalWorker, number: int, verb: str, arguments: bytes) -> Any:
        takes_run, values = pickle.loads(arguments)
        if takes_run:
            run = _Run(self, number)
            run.check()
            values = (*values, run)
        return getattr(worker, verb)(*values)


class _Run:
    """The run of one call: it sends reports to the parent, and checks whether the parent has cancelled the call."""

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
    """Sends log records to the parent."""

    def __init__(self, process: _Process) -> None:
        super().__init__()
        self._process = process

    def emit(self, record: logging.LogRecord) -> None:
        self._process.send(("log", record.name, record.levelno, self.format(record)))


def _picklable(error: Exception) -> MoldError:
    """Return the error as a picklable MoldError; its cause is logged and not sent."""
    reported = own_error(error)
    if reported.__cause__ is not None:
        log.warning("%s", reported, exc_info=reported.__cause__)
    try:
        pickle.loads(pickle.dumps(reported))
    except Exception:
        return InferenceError("%s", reported)
    return reported
