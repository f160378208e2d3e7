"""Several files at once: each is fetched in a thread of its own, and one thread reports on all of them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

import attrs

from mold_core.catalog.report import FileReport, PullReader
from mold_core.errors import CancelledError
from mold_core.wire import ProgressEvent

__all__ = ["FILES_AT_ONCE", "fetch_together"]

# More connections than this hardly make a pull faster, and the hub may refuse them.
FILES_AT_ONCE = 4

_TICK_S = 0.25


def fetch_together(jobs: Sequence[Callable[[FileReport], object]], reader: PullReader, at_once: int) -> None:
    """Call every job in a thread, so many at once, and pass on what they report in this thread.

    After the first failure the others end at their next report. Raises what the first failing job raised, or at once
    what the reader raised; a thread that waits for the network then ends a little later, and holds its file's lock
    until it does.
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
            report = _ThreadReport(reader, messages, stop, index)
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
        _pass_on(messages, reader, len(jobs))
    finally:
        stop.set()
    if failures:
        raise failures[0]


@attrs.frozen
class _Message:
    """Something to do in the reporting thread, or the end of a job."""

    deliver: Callable[[], object]
    ends: bool = False


def _pass_on(messages: queue.SimpleQueue[_Message], reader: PullReader, running: int) -> None:
    while running:
        try:
            message = messages.get(timeout=_TICK_S)
        except queue.Empty:
            reader.tick()
            continue
        message.deliver()
        running -= message.ends


class _ThreadReport:
    """The report of one file, from its thread. Every call raises CancelledError once the pull is to stop."""

    def __init__(
        self, reader: PullReader, messages: queue.SimpleQueue[_Message], stop: threading.Event, index: int
    ) -> None:
        self._reader = reader
        self._messages = messages
        self._stop = stop
        self._index = index
        self._last_time = 0.0

    def say(self, event: ProgressEvent) -> None:
        self._post(lambda reader: reader.say(event))

    def stage(self, name: str) -> None:
        self.tick()  # of several files, what is done without fetching is not worth a line

    def tick(self) -> None:
        if self._stop.is_set():
            raise CancelledError("the pull was cancelled")

    def start_file(self, filename: str, size_bytes: int, bytes_here: int) -> None:
        self._post(lambda reader: reader.start_file(filename, size_bytes, bytes_here, index=self._index))

    def progress(self, bytes_here: int, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now - self._last_time >= _TICK_S:
            self._last_time = now
            self._post(lambda reader: reader.progress(bytes_here, at_once=True, index=self._index))
        else:
            self.tick()

    def finish_file(self) -> None:
        self._post(lambda reader: reader.finish_file(index=self._index))

    def _post(self, act: Callable[[PullReader], object]) -> None:
        self.tick()
        self._messages.put(_Message(lambda: act(self._reader)))
