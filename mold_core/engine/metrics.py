"""Figures of what an engine does, for whoever listens: the metrics of a server are made from them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import attrs

__all__ = ["MEASURES", "MetricSample", "Observers"]

log = logging.getLogger("mold.engine")

# What is measured, with its labels, and when. Durations are in seconds.
MEASURES: dict[str, tuple[tuple[str, ...], str]] = {
    "queue_wait_s": (("kind",), "A job left the queue after so long."),
    "batch_jobs": (("kind",), "So many jobs were taken together."),
    "batch_images": (("model",), "So many images were computed together."),
    "stage_s": (("stage",), "A stage of the work took so long; its name is the stage's first word, in small letters."),
    "model_load_s": (("model", "device"), "A model was loaded."),
    "job_s": (("kind", "model"), "A job ran for so long and is done."),
    "job_finished": (("kind", "model", "state", "code"), "A job ended; `code` is its error's, empty when it is done."),
    "worker_restart": (("device",), "A worker had died and was started again."),
}


@attrs.frozen(kw_only=True)
class MetricSample:
    """One figure. `name` is one of `MEASURES`; events that are only counted have the value 1."""

    name: str
    value: float
    labels: Mapping[str, str]


class Observers:
    """Functions that are told every measure, in the thread that took it; they must be quick."""

    def __init__(self) -> None:
        self._observers: list[Callable[[MetricSample], object]] = []

    def add(self, observer: Callable[[MetricSample], object]) -> None:
        """Tell `observer` every measure from now on."""
        self._observers.append(observer)

    def remove(self, observer: Callable[[MetricSample], object]) -> None:
        """Tell it no more."""
        self._observers.remove(observer)

    def measure(self, name: str, value: float, **labels: str) -> None:
        """Tell all observers a figure. What an observer raises goes to the log."""
        for observer in tuple(self._observers):
            try:
                observer(MetricSample(name=name, value=value, labels=labels))
            except Exception:
                log.exception("an observer of %s failed", name)
