"""Requests → results: the engine, its queue, its workers and what they keep in memory."""

from mold_core.engine.engine import Engine, ModelEntry
from mold_core.engine.jobs import Job, JobState

__all__ = ["Engine", "Job", "JobState", "ModelEntry"]
