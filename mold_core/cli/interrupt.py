"""Ends a command within two seconds of Ctrl-C, whatever it is computing."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from mold_core.unfinished import remove_unfinished

__all__ = ["INTERRUPTED", "end_soon_when_interrupted", "exit_now"]

INTERRUPTED = 130
_GRACE_S = 1.0


def end_soon_when_interrupted(report: Callable[[], object]) -> None:
    """End the process one second after Ctrl-C if KeyboardInterrupt has not done so.

    A C++ computation cannot be interrupted, and Python waits for its thread. `report` is called just
    before. A thread reads what the C signal handler writes, so it does not matter what the main thread is doing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(reader, report), name="mold-interrupt", daemon=True).start()


def exit_now(status: int) -> None:
    """End the process without waiting for its threads. Output is flushed, unfinished files are deleted."""
    remove_unfinished()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()
    os._exit(status)


def _wait(reader: int, report: Callable[[], object]) -> None:
    while signal.SIGINT not in os.read(reader, 64):
        pass
    time.sleep(_GRACE_S)
    with suppress(Exception):
        report()
    remove_unfinished()
    os._exit(INTERRUPTED)  # without flushing standard output, whose reader may have stopped reading
