"""The engine: it turns requests into results, with its workers and the models that they keep in memory."""

from mold_core.engine.device_runner import DeviceStatus
from mold_core.engine.engine import Engine, EngineStatus
from mold_core.engine.metrics import MetricSample
from mold_core.jobs.job import Job, JobState
from mold_core.requests.models import ModelEntry

__all__ = ["DeviceStatus", "Engine", "EngineStatus", "Job", "JobState", "MetricSample", "ModelEntry"]
