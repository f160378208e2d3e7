"""Metrics of an engine for its observers; a server builds its /metrics from them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import attrs

__all__ = ["MEASURES", "MetricSample", "Observers"]

log = logging.getLogger("mold.engine")

# Each metric with its labels and its meaning. Durations are in seconds.
MEASURES: dict[str, tuple[tuple[str, ...], str]] = {
    "queue_wait_s": (("kind",), "Time from the creation of a job to its start."),
    "batch_jobs": (("kind",), "Number of jobs taken together."),
    "batch_images": (("model",), "Number of images computed together."),
    "stage_s": (("stage",), "Duration of a stage of the work; `stage` is the first word of its name, in lower case."),
    "model_load_s": (("model", "device"), "Duration of loading a model."),
    "job_s": (("kind", "model"), "Duration of a job that is done."),
    "job_finished": (("kind", "model", "state", "code"), "A job ended; `code` is its error code, empty if it is done."),
    "worker_restart": (("device",), "A worker died and is restarted."),
}


@attrs.frozen(kw_only=True)
class MetricSample:
    """One sample of a metric. `name` is a key of `MEASURES`; events that are only counted have the value 1."""

    name: str
    value: float
    labels: Mapping[str, str]


class Observers:
    """Functions that receive every sample, in the thread that measured it; they must be fast."""

    def __init__(self) -> None:
        self._observers: list[Callable[[MetricSample], object]] = []

    def add(self, observer: Callable[[MetricSample], object]) -> None:
        """Pass every later sample to `observer`."""
        self._observers.append(observer)

    def remove(self, observer: Callable[[MetricSample], object]) -> None:
        """Stop passing samples to `observer`."""
        self._observers.remove(observer)

    def measure(self, name: str, value: float, **labels: str) -> None:
        """Pass a sample to all observers. An exception of an observer is logged."""
        for observer in tuple(self._observers):
            try:
                observer(MetricSample(name=name, value=value, labels=labels))
            except Exception:
                log.exception("an observer of %s failed", name)
