"""What travels between a caller and an engine: requests, responses and events, to and from JSON."""

from mold_core.wire.events import (
    CacheHit,
    DenoiseStep,
    DownloadDone,
    DownloadProgress,
    Info,
    ProgressEvent,
    PullComplete,
    Queued,
    StageDone,
    StageStart,
    WeightLoad,
    event_type,
)
from mold_core.wire.generate import OUTPUT_FORMATS, GenerateRequest, GenerateResponse, ImageData, LoraWeight

__all__ = [
    "OUTPUT_FORMATS",
    "CacheHit",
    "DenoiseStep",
    "DownloadDone",
    "DownloadProgress",
    "GenerateRequest",
    "GenerateResponse",
    "ImageData",
    "Info",
    "LoraWeight",
    "ProgressEvent",
    "PullComplete",
    "Queued",
    "StageDone",
    "StageStart",
    "WeightLoad",
    "event_type",
]
