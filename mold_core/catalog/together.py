"""Downloads several files at the same time: one thread per file, and one thread that reports their progress."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

import attrs

from mold_core.catalog.report import FileReport, PullReporter
from mold_core.errors import CancelledError
from mold_core.wire import ProgressEvent

__all__ = ["FILES_AT_ONCE", "fetch_together"]

# More connections hardly make a pull faster, and the hub may refuse them.
FILES_AT_ONCE = 4

_TICK_S = 0.25


def fetch_together(jobs: Sequence[Callable[[FileReport], object]], reporter: PullReporter, at_once: int) -> None:
    """Call the jobs in threads, `at_once` at the same time, and pass on their reports in this thread.

    After the first failure the other jobs stop at their next report. Raises the error of that job, or the error of the
    reporter immediately. Then a thread that waits for the network stops later, and keeps the lock of its file until it
    does.
    """
    messages: queue.SimpleQueue[_Message] = queue.SimpleQueue()
    stop = threading.Event()
    failures: list[BaseException] = []
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(1, len(jobs) + 1):
        waiting.put(index)

    def run() -> None:
        while True:
            try:
                index = waiting.get_nowait()
            except queue.Empty:
                return
            report = _ThreadReport(reporter, messages, stop, index)
            try:
                report.tick()
                jobs[index - 1](report)
            except BaseException as error:
                if not (stop.is_set() and isinstance(error, CancelledError)):
                    failures.append(error)
                stop.set()
            finally:
                messages.put(_Message(lambda: None, ends=True))

    # NOTE: daemons, so that Ctrl-C ends the process though a thread waits for the network.
    threads = [
        threading.Thread(target=run, name=f"mold-pull-{number}", daemon=True)
        for number in range(min(at_once, len(jobs)))
    ]
    for thread in threads:
        thread.start()
    try:
        _pass_on(messages, reporter, len(jobs))
    finally:
        stop.set()
    if failures:
        raise failures[0]


@attrs.frozen
class _Message:
    """A call for the reporting thread, or the end of a job."""

    deliver: Callable[[], object]
    ends: bool = False


def _pass_on(messages: queue.SimpleQueue[_Message], reporter: PullReporter, running: int) -> None:
    while running:
        try:
            message = messages.get(timeout=_TICK_S)
        except queue.Empty:
            reporter.tick()
            continue
        message.deliver()
        running -= message.ends


class _ThreadReport:
    """Reports one file from its thread. Every method raises CancelledError when the pull has been cancelled."""

    def __init__(
        self, reporter: PullReporter, messages: queue.SimpleQueue[_Message], stop: threading.Event, index: int
    ) -> None:
        self._reporter = reporter
        self._messages = messages
        self._stop = stop
        self._index = index
        self._last_time = 0.0

    def send(self, event: ProgressEvent) -> None:
        self._post(lambda reporter: reporter.send(event))

    def stage(self, name: str) -> None:
        self.tick()  # with several files, stages without downloads are not reported

    def tick(self) -> None:
        if self._stop.is_set():
            raise CancelledError("the pull was cancelled")

    def start_file(self, filename: str, size_bytes: int, bytes_here: int) -> None:
        self._post(lambda reporter: reporter.start_file(filename, size_bytes, bytes_here, index=self._index))

    def progress(self, bytes_here: int, *, immediately: bool = False) -> None:
        now = time.monotonic()
        if immediately or now - self._last_time >= _TICK_S:
            self._last_time = now
            self._post(lambda reporter: reporter.progress(bytes_here, immediately=True, index=self._index))
        else:
            self.tick()

    def finish_file(self) -> None:
        self._post(lambda reporter: reporter.finish_file(index=self._index))

    def _post(self, act: Callable[[PullReporter], object]) -> None:
        self.tick()
        self._messages.put(_Message(lambda: act(self._reporter)))
