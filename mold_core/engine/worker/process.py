"""Runs a worker in a separate process, so that a crash or a kill there costs one job and not the server."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import count
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from mold_core.catalog import ModelSpec
from mold_core.engine.worker.child import Boot, WorkerState
from mold_core.engine.worker.pulse import Pulse, make_pulse
from mold_core.engine.worker.shared_file import make_shared_file, read_shared
from mold_core.engine.worker.vigil import Call, Vigil, call_for
from mold_core.errors import CancelledError, PluginError, WorkerError
from mold_core.hookspecs import InstalledPlugins, Run, Worker
from mold_core.jobs.task import WorkerTask
from mold_core.placement.device import DeviceInfo
from mold_core.settings import Settings

__all__ = ["ProcessExecutor", "ProcessWorker"]

log = logging.getLogger("mold.worker")

_START_TIMEOUT_S = 120.0
_CLOSE_TIMEOUT_S = 5.0
_TAIL_LINES = 20
_PROGRAM = "from mold_core.engine.worker.child import main; main()"


class ProcessExecutor:
    """Runs each worker in a separate process (not on Windows)."""

    name = "process"

    def start(self, device: str, settings: Settings, plugins: InstalledPlugins) -> ProcessWorker:
        """Return a worker for the device once its process is ready. Raises WorkerError if it does not start."""
        return ProcessWorker(device, settings, plugins)


class _Cancellable(Protocol):
    """An optional addition to `mold_core.hookspecs.Run`; see `mold_core.jobs.batch.BatchRun`."""

    def on_cancel(self, cancelled: Callable[[], object]) -> AbstractContextManager[None]: ...


class ProcessWorker(Worker):
    """A worker that runs the methods of `mold_core.hookspecs.Worker` in another process.

    `on_death` is called in a thread of this worker when the process ends before `close`. A process that is stopped,
    hangs or does not react to a cancellation is killed, which also counts as such a death.
    """

    def __init__(self, device: str, settings: Settings, plugins: InstalledPlugins) -> None:
        self.device = device
        self.on_death: Callable[[], object] | None = None
        self._numbers = count(1)
        self._sending = threading.Lock()
        self._responses: SimpleQueue[tuple[Any, ...] | None] = SimpleQueue()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._state = WorkerState(loaded=frozenset(), device=DeviceInfo(name=device))
        self._settings = settings
        self._calling: Call | None = None
        self._fault: str | None = None
        self._dead = self._closing = False
        self._over = threading.Event()
        ours, theirs = socket.socketpair()
        self._shared, page = make_shared_file(), make_pulse()
        self._pulse = Pulse(page)
        with theirs:
            self._process = _spawn(theirs.fileno(), self._shared, page)
        os.close(page)
        self._connection = Connection(ours.detach())
        self._threads = [
            threading.Thread(target=target, name=f"mold-{name}-{device}", daemon=True)
            for name, target in (("read", self._read), ("output", self._read_output))
        ]
        for thread in self._threads:
            thread.start()
        try:
            self._boot(settings, plugins)
        except BaseException:
            self._closing = True
            self.kill()
            self.close()
            raise
        watching = threading.Thread(target=self._watch, name=f"mold-watch-{device}", daemon=True)
        self._threads.append(watching)
        watching.start()

    # --- verbs ---------------------------------------------------------------------------------------------------

    def loaded(self) -> frozenset[str]:
        """Return the full names of the models in memory."""
        return frozenset() if self._dead else self._state.loaded

    def load(self, spec: ModelSpec, run: Run) -> None:
        """Load a model."""
        self._call("load", (spec,), run, of=spec)

    def unload(self, name: str | None = None) -> tuple[str, ...]:
        """Unload one model, or all; return the names of the unloaded models."""
        unloaded: tuple[str, ...] = self._call("unload", (name,), None)
        return unloaded

    def run(self, task: WorkerTask, run: Run) -> Any:
        """Run a task in the other process and return its result."""
        return self._call("run", (task,), run, of=task.spec, requests=task.requests)

    def close(self) -> None:
        """Ask the process to end, and kill it if it does not."""
        self._closing = True
        self._over.set()
        with suppress(OSError, WorkerError):
            self._send(("close",))
        try:
            self._process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_CLOSE_TIMEOUT_S)
        self._connection.close()
        os.close(self._shared)
        self._pulse.close()
        assert self._process.stdout is not None
        self._process.stdout.close()

    # --- state, for the runner -----------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return not self._dead

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def device_info(self) -> DeviceInfo:
        """Return the name and memory of the device as of the end of the last call."""
        return self._state.device

    def kill(self) -> bool:
        """Kill the process immediately."""
        self._process.kill()
        return True

    # --- internal ------------------------------------------------------------------------------------------------

    def _boot(self, settings: Settings, plugins: InstalledPlugins) -> None:
        boot = Boot(
            device=self.device,
            settings=settings,
            source=plugins.source,
            parent=os.getpid(),
            log_level=logging.getLogger("mold").getEffectiveLevel(),
        )
        try:
            data = pickle.dumps(boot)
        except Exception as error:
            raise PluginError(
                "a plugin that was given as an object cannot be sent to another process: %s",
                error,
                hint="install it with an entry point, or set MOLD_EXECUTOR=inline",
            ) from error
        with suppress(OSError):  # the process has died, which the next lines detect
            self._connection.send_bytes(data)
        try:
            response = self._responses.get(timeout=_START_TIMEOUT_S)
        except Empty:
            raise WorkerError(
                f"the worker process of {self.device} did not start in {_START_TIMEOUT_S:.0f} s"
            ) from None
        if response is None:
            raise self._death()
        self._state = WorkerState(loaded=frozenset(), device=response[1])

    def _call(
        self,
        verb: str,
        arguments: tuple[Any, ...],
        run: Run | None,
        *,
        of: ModelSpec | None = None,
        requests: Sequence[Any] = (),
    ) -> Any:
        """Run a method in the process and return its result. The model `of` and `requests` determine the time limit."""
        number = next(self._numbers)
        takes_run = run is not None
        load = of is not None and of.name not in self._state.loaded
        self._calling = call_for(number, self._settings, of, requests, load=load)
        try:
            self._send(("call", number, verb, pickle.dumps((takes_run, arguments))))
            calling = _Calling(run, lambda: self._pulse.cancel(number))
            with calling.on_cancel():
                while (message := self._responses.get()) is not None:
                    if message[1] != number:
                        continue
                    if message[0] in ("done", "failed"):
                        self._state = message[2]
                        return calling.outcome(message[0], pickle.loads(message[3]))
                    calling.forward(message)
        finally:
            self._calling = None
        raise self._death()

    def _send(self, message: tuple[Any, ...]) -> None:
        try:
            with self._sending:
                self._connection.send(message)
        except OSError:
            raise self._death() from None

    def _death(self) -> WorkerError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_TIMEOUT_S)
        how = f"{self._fault} and was ended" if self._fault else _how_it_ended(self._process.returncode)
        return WorkerError(f"the worker process of {self.device} {how}")

    def _read(self) -> None:
        """Read the messages of the process until it has ended."""
        with suppress(EOFError, OSError):
            while True:
                message = self._connection.recv()
                name = message[0]
                if name == "log":
                    _name, logger, level, text = message
                    self._log(logging.getLogger(logger), level, text)
                elif name in ("done", "failed"):
                    self._responses.put((*message, self._connection.recv_bytes() or read_shared(self._shared)))
                else:
                    self._responses.put(message)
                del message
        self._dead = True
        self._over.set()
        self._responses.put(None)
        if not self._closing:
            self._threads[1].join(_CLOSE_TIMEOUT_S)
            log.error("%s; its last output: %s", self._death(), " / ".join(self._tail) or "none")
            if self.on_death is not None:
                self.on_death()

    def _watch(self) -> None:
        """Kill the process when it is stopped, hangs or ignores a cancellation."""
        self._fault = Vigil(self._pulse, self._settings, lambda: self._calling).keep(self._over)
        if self._fault is not None:
            self.kill()

    def _log(self, logger: logging.Logger, level: int, text: str) -> None:
        """Log a record of the process; the lines after the first are its traceback."""
        if logger.isEnabledFor(level):
            first, _, traceback = text.partition("\n")
            record = logger.makeRecord(logger.name, level, __file__, 0, "%s: %s", (self.device, first), None)
            record.exc_text = traceback or None
            logger.handle(record)

    def _read_output(self) -> None:
        """Log the standard output of the process."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            text = line.decode("utf-8", "replace").rstrip()
            self._tail.append(text)
            log.info("%s: %s", self.device, text)


class _Calling:
    """A running call: it forwards reports to the run, and cancels the call when the run is cancelled."""

    def __init__(self, run: Run | None, cancel: Callable[[], object]) -> None:
        self._run = run
        self._cancel = cancel
        self._failure: BaseException | None = None

    def on_cancel(self) -> AbstractContextManager[None]:
        """While the block runs, cancel the call as soon as the run is cancelled."""
        on_cancel = getattr(self._run, "on_cancel", None)
        return on_cancel(self._cancel) if on_cancel is not None else nullcontext()

    def forward(self, message: tuple[Any, ...]) -> None:
        """Forward a report to the run; when the run raises, cancel the call and forward nothing more."""
        if self._run is None or self._failure is not None:
            return
        try:
            if message[0] == "event":
                self._run.report(message[2])
            else:
                self._run.step(*message[2:])
        except BaseException as error:
            self._failure = error
            self._cancel()

    def outcome(self, word: str, value: Any) -> Any:
        """Return the result, or raise the error; an error that the run itself raised has priority."""
        if self._failure is not None and (word == "failed" or not isinstance(self._failure, CancelledError)):
            raise self._failure
        if word == "failed":
            raise value
        return value


def _spawn(descriptor: int, shared: int, page: int) -> subprocess.Popen[bytes]:
    paths = [os.path.abspath(path) for path in sys.path]
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _PROGRAM, str(descriptor), str(shared), str(page)],
        pass_fds=[descriptor, shared, page],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"},
    )


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "does not answer"
    if status >= 0:
        return f"ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    why = ", perhaps because memory ran out" if name == "SIGKILL" else ""
    return f"was ended by {name}{why}"
