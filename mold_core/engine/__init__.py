"""Requests → results: the engine, its queue, its workers and what they keep in memory."""

from mold_core.engine.engine import Engine, EngineStatus
from mold_core.engine.feeder import DeviceStatus
from mold_core.engine.jobs import Job, JobKind, JobState
from mold_core.engine.models import ModelEntry
from mold_core.engine.observe import Measure

__all__ = ["DeviceStatus", "Engine", "EngineStatus", "Job", "JobKind", "JobState", "Measure", "ModelEntry"]
