"""Notifies plugins of finished jobs in a separate thread, so that a slow plugin delays no job."""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue

from mold_core.jobs.job import Job
from mold_core.plugins import Plugins

__all__ = ["PluginNotifier"]

log = logging.getLogger("mold.engine")


class PluginNotifier:
    """Calls the hook `mold_job_finished` for every job passed to `put`, one at a time and in order."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self._has_hooks = bool(plugins.manager.hook.mold_job_finished.get_hookimpls())
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, job: Job) -> None:
        """Notify the plugins of a job that is done, failed or cancelled. Does not block."""
        if not self._has_hooks:
            return
        self._jobs.put(job)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="mold-notices", daemon=True)
                self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Wait until the plugins are notified of all jobs, but no longer than `timeout_s`."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            if thread is not threading.current_thread():
                thread.join(timeout_s)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            for plugin, failure in self._plugins.notify("mold_job_finished", job=job):
                log.warning("mold_job_finished of plugin %s failed: %s", plugin, failure)
