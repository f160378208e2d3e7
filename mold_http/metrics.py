"""Metrics of the server in Prometheus' format."""

from __future__ import annotations

import time
from collections.abc import Iterator

from falcon.constants import HTTP_METHODS
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from mold_core.engine import Engine
from mold_core.engine.metrics import MetricSample

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Seconds; images take between one and a few hundred.
_LONG_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)

# Label for requests outside the table of routes or with unknown methods; clients choose these strings.
_NO_ROUTE = "none"
_NO_METHOD = "other"


class Metrics:
    """The metrics of one server, in a separate registry."""

    def __init__(self, engine: Engine) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # creation times are not needed
        self._engine = engine
        registry = self._registry = CollectorRegistry(auto_describe=True)

        def counter(name: str, doc: str, *labels: str) -> Counter:
            return Counter(name, doc, labels, registry=registry)

        def durations(name: str, doc: str, *labels: str) -> Histogram:
            return Histogram(name, doc, labels, buckets=_LONG_S, registry=registry)

        self._requests = counter("mold_http_requests", "Number of responses.", "method", "path", "status")
        self._request_s = Histogram(
            "mold_http_request_duration_seconds", "Time to the response.", ["method", "path"], registry=registry
        )
        # PERF: looking up labels costs more than counting.
        self._responses: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._started = counter("mold_queue", "Number of started jobs.")
        self._generation_s = durations("mold_generation_duration_seconds", "Duration of finished jobs.", "model")
        self._errors = counter("mold_generation_errors", "Number of failed jobs.", "model")
        self._wait_s = durations("mold_queue_wait_seconds", "Time of jobs in the queue.", "kind")
        self._batch = Histogram(
            "mold_batch_size", "Number of images in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self._stage_s = durations("mold_stage_duration_seconds", "Duration of a stage of a job.", "stage")
        self._loads = counter("mold_model_loads", "Number of model loads.", "name")
        self._load_s = durations("mold_model_load_duration_seconds", "Time to load a model.", "name")
        self._restarts = counter("mold_worker_restarts", "Number of restarts of dead workers.", "device")
        started = time.monotonic()
        uptime = Gauge("mold_uptime_seconds", "Time since the server started.", registry=registry)
        uptime.set_function(lambda: time.monotonic() - started)
        depth = Gauge("mold_queue_depth", "Number of waiting jobs.", registry=registry)
        depth.set_function(lambda: len(engine.queue))
        registry.register(_EngineState(engine))
        engine.observers.add(self.observe)

    def answered(self, method: str, template: str | None, status: int, elapsed_s: float) -> None:
        """Count a response by its method, the template of its route and its status."""
        key = method if method in HTTP_METHODS else _NO_METHOD, template or _NO_ROUTE, status
        found = self._responses.get(key)
        if found is None:
            requests = self._requests.labels(key[0], key[1], str(status))
            found = self._responses[key] = requests, self._request_s.labels(key[0], key[1])
        found[0].inc()
        found[1].observe(elapsed_s)

    def observe(self, measure: MetricSample) -> None:
        """Count a sample of the engine; see `mold_core.engine.metrics`."""
        labels, value = measure.labels, measure.value
        match measure.name:
            case "queue_wait_s":
                self._wait_s.labels(labels["kind"]).observe(value)
                self._started.inc()
            case "batch_images":
                self._batch.observe(value)
            case "stage_s":
                self._stage_s.labels(labels["stage"]).observe(value)
            case "model_load_s":
                self._load_s.labels(labels["model"]).observe(value)
                self._loads.labels(labels["model"]).inc()
            case "job_s":
                self._generation_s.labels(labels["model"]).observe(value)
            case "job_finished" if labels["state"] == "failed":
                self._errors.labels(labels["model"]).inc()
            case "worker_restart":
                self._restarts.labels(labels["device"]).inc()

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    def close(self) -> None:
        """Stop counting."""
        self._engine.observers.remove(self.observe)


class _EngineState:
    """State of the engine, read when metrics are requested."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges of loaded models and of device memory."""
        loaded = self._engine.loaded()
        models = GaugeMetricFamily("mold_model_loaded", "1 if the model is in memory.", labels=["name"])
        for name in self._engine.plugins.models:
            models.add_metric([name], float(name in loaded))
        yield models
        memory = GaugeMetricFamily("mold_gpu_memory_used_bytes", "Memory in use.", labels=["device"])
        for device in self._engine.devices():
            if device.device != "cpu":
                memory.add_metric([device.device], float(device.memory_used_bytes))
        yield memory
